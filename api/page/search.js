// Search: the neighbours of a detection, or of a picture that was chosen, dropped or pasted.

import { getDetection, getIndex, search as searchFor, searchByImage } from "./api.js";
import { el, definitions, nameOf, plural, time } from "./dom.js";
import { makeFilters } from "./filters.js";
import { fill, makeGrid } from "./grid.js";
import { showingErrors } from "./message.js";
import { filtersOf, detectionHash, hashOf, whereOf } from "./where.js";

const SIZES = ["12", "24", "48", "96"];
const FIRST_GROUPS = ["track", "sequence", "image", "label"];

const uploads = new Map(); // number to File: pictures of this tab, never stored anywhere

export function startUpload(file) {
  const number = String(uploads.size + 1);
  uploads.set(number, file);
  location.hash = hashOf("search", { upload: number });
}

export function search({ main, signal, pictures, params, onSnapshot, title }) {
  const { id, upload } = params;
  const file = uploads.get(upload);
  if (id === undefined && file === undefined) return chooser(main, title, upload !== undefined);
  title(id === undefined ? "Neighbours of a picture" : `Neighbours of ${id}`);
  const change = (changes) => {
    const { k, exact, group, limit, more, less } = params;
    location.hash = hashOf("search", { id, upload, ...filtersOf(params), k, exact, group, limit, more, less, ...changes });
  };
  const filters = makeFilters(params, { signal, changed: change });
  const k = el(
    "select",
    { id: "s-k", onchange: () => change({ k: k.value === "24" ? "" : k.value }) },
    SIZES.map((size) => el("option", { value: size }, size)),
  );
  const exact = el("input", {
    type: "checkbox", id: "s-exact", onchange: () => change({ exact: exact.checked ? "1" : "" }),
  });
  const group = el("select", { id: "s-group", onchange: () => change({ group: group.value }) });
  const limit = el("input", {
    type: "number", id: "s-limit", step: "any", size: "6", onchange: () => change({ limit: limit.value }),
  });
  const chosen = el("div", { class: "chosen" });
  const query = el("div", { class: "query" });
  const status = el("p", { class: "count", role: "status" });
  const notice = el("div", { class: "notice" });
  const grid = makeGrid("Neighbours, nearest first");
  const heading = el("h1", { tabindex: "-1" }, "Neighbours");
  main.append(
    el(
      "div",
      { class: "two" },
      el(
        "aside",
        { "aria-label": "Query and filter" },
        el("section", { "aria-label": "Query" }, el("h2", {}, "Query"), query, chosen),
        el(
          "div",
          { class: "row options" },
          el("label", {}, "Show ", k),
          el("label", { title: "Compare with every vector instead of searching the approximate index" }, exact, " exact"),
          el("div", { class: "row" }, el("label", { for: "s-group" }, "One of each"), group),
          el("div", { class: "row", title: "The lowest similarity, or the largest distance" }, el("label", { for: "s-limit" }, "Score limit"), limit),
        ),
        filters.panel,
      ),
      el("section", { "aria-label": "Neighbours" }, el("div", { class: "head" }, heading, status), notice, grid),
    ),
  );
  if (file) query.append(pictures.local(file, "The uploaded picture"));
  else showingErrors(() => showDetection(), { target: query, signal });
  let controller = null;

  async function showDetection() {
    const detection = await getDetection(id, signal);
    query.replaceChildren(
      el("a", { href: detectionHash(id), class: "plain" }, pictures.frame(id, `Crop of ${nameOf(detection)}`)),
      definitions([
        ["Class", nameOf(detection)],
        ["Score", detection.label_score?.toFixed(3)],
        ["Sequence", detection.sequence],
        ["Time", time(detection.timestamp)],
        ["Id", el("code", {}, id)],
      ]),
    );
  }

  async function show() {
    controller?.abort();
    controller = new AbortController();
    const anyAbort = AbortSignal.any([signal, controller.signal]);
    k.value = SIZES.includes(params.k) ? params.k : "24";
    exact.checked = params.exact === "1";
    group.value = params.group ?? "";
    limit.value = params.limit ?? "";
    showExamples();
    grid.setAttribute("aria-busy", "true");
    status.textContent = file ? "The model classifies the picture…" : "";
    notice.replaceChildren();
    await showingErrors(() => load(anyAbort), { target: notice, signal: anyAbort });
    if (notice.hasChildNodes()) {
      status.textContent = "";
      pictures.clear(grid);
    }
    if (!anyAbort.aborted) grid.removeAttribute("aria-busy");
  }

  async function load(anyAbort) {
    const options = {
      k: Number(k.value),
      exact: exact.checked,
      where: whereOf(filtersOf(params)),
      group_by: params.group || null,
      score_threshold: params.limit ? Number(params.limit) : null,
    };
    const { more, less } = examplesOf(params);
    const by = more.length + less.length ? { positive: [id, ...more], negative: less } : { detection_id: id };
    const answer = await (file ? searchByImage(file, options, anyAbort) : searchFor(by, options, anyAbort));
    onSnapshot(answer.snapshot);
    notice.replaceChildren();
    const measure = answer.metric === "cosine" || answer.metric === "ip" ? "similarity" : "distance";
    status.textContent = answer.hits.length
      ? `${plural(answer.hits.length, "neighbour")}${params.group ? `, one of each ${params.group}` : ""}, nearest first, by ${answer.metric} ${measure}`
      : "no detection fits this filter";
    if (answer.query) showClasses(answer.query);
    fill(grid, answer.hits, pictures, file ? undefined : addExample);
  }

  function addExample(example, sign) {
    const { more, less } = examplesOf(params);
    if (sign === "+") more.push(example);
    else less.push(example);
    change({ more: listOf(more), less: listOf(less) });
  }

  // The examples besides the query, each with a button that takes it away.
  function showExamples() {
    pictures.clear(chosen);
    const { more, less } = examplesOf(params);
    const part = (name, ids, field) => [
      ids.length ? el("p", { class: "hint" }, name) : null,
      ...ids.map((example) =>
        el(
          "button",
          {
            type: "button", class: "quiet", "aria-label": `Take away ${example}`, title: `Take away ${example}`,
            onclick: () => change({ [field]: listOf(ids.filter((other) => other !== example)) }),
          },
          pictures.frame(example, `Crop of ${example}`),
          "×",
        ),
      ),
    ];
    chosen.append(...[part("More like", more, "more"), part("Less like", less, "less")].flat().filter(Boolean));
  }

  async function listGroups() {
    let own = [];
    try {
      own = (await getIndex(signal)).own_columns;
    } catch (error) {
      if (error.name === "AbortError") return;
      group.title = error.message;
    }
    const names = [...new Set([...FIRST_GROUPS, ...own, ...(params.group ? [params.group] : [])])];
    group.replaceChildren(
      el("option", { value: "" }, "any"),
      ...names.map((name) => el("option", { value: name }, name)),
    );
    group.value = params.group ?? "";
  }

  function showClasses({ topk }) {
    query.querySelector(".classes")?.remove();
    query.append(
      el(
        "div",
        { class: "classes" },
        el("p", { class: "hint" }, "Classes by the model"),
        el(
          "ol",
          { "aria-label": "The model's best classes" },
          topk.map((entry) =>
            el(
              "li",
              {},
              el("span", { class: "label" }, entry.label ?? `class ${entry.label_index}`),
              el("span", { class: "score" }, entry.score.toFixed(3)),
              el("meter", { min: "0", max: "1", value: String(entry.score), "aria-hidden": "true" }),
            ),
          ),
        ),
        chooseButton("Another picture"),
      ),
    );
  }

  listGroups();
  show();
  return {
    heading,
    focusFilter: filters.focus,
    update(next) {
      if (next.id !== id || next.upload !== upload) return false;
      params = next;
      filters.set(next);
      show();
      return true;
    },
  };
}

// Ids hold any character, so a link has lists of them as JSON.
const listOf = (ids) => (ids.length ? JSON.stringify(ids) : "");

function examplesOf({ more, less }) {
  const read = (text) => {
    try {
      const ids = JSON.parse(text || "[]");
      return Array.isArray(ids) ? ids.filter((each) => typeof each === "string") : [];
    } catch {
      return []; // a link that somebody has cut
    }
  };
  return { more: read(more), less: read(less) };
}

function chooser(main, title, lost) {
  title("Search by image");
  const heading = el("h1", { tabindex: "-1" }, "Search by image");
  main.append(
    el(
      "section",
      { class: "choose", "aria-label": "Search by image" },
      heading,
      lost
        ? el("p", { class: "message" }, "The picture of this link was not stored; choose it again.")
        : null,
      el("p", {}, "Choose a picture, drop it anywhere on this page, or paste it. The model that made this index names its class and finds the detections that look most like it."),
      chooseButton("Choose a picture", "primary"),
      el("p", { class: "hint" }, "JPEG, PNG, WebP, TIFF, GIF or BMP; cut close around the animal for the best neighbours. Or ", el("a", { href: "#/" }, "browse"), " and search by a detection."),
    ),
  );
  return { heading, update: () => false };
}

function chooseButton(name, kind) {
  const input = el("input", {
    type: "file", accept: "image/*", hidden: true,
    onchange: () => input.files.length && startUpload(input.files[0]),
  });
  return el("div", {}, input, el("button", { type: "button", class: kind, onclick: () => input.click() }, name));
}
