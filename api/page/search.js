// Search: the neighbours of a detection, or of a picture that was chosen, dropped or pasted.

import { getDetection, searchById, searchByImage } from "./api.js";
import { el, definitions, nameOf, plural, time } from "./dom.js";
import { makeFilters } from "./filters.js";
import { fill, makeGrid } from "./grid.js";
import { showingErrors } from "./message.js";
import { filtersOf, detectionHash, hashOf, whereOf } from "./where.js";

const SIZES = ["12", "24", "48", "96"];

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
    location.hash = hashOf("search", { id, upload, ...filtersOf(params), k: params.k, exact: params.exact, ...changes });
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
        el("section", { "aria-label": "Query" }, el("h2", {}, "Query"), query),
        el(
          "div",
          { class: "row options" },
          el("label", {}, "Show ", k),
          el("label", { title: "Compare with every vector instead of searching the approximate index" }, exact, " exact"),
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
    const options = { k: Number(k.value), exact: exact.checked, where: whereOf(filtersOf(params)) };
    const answer = await (file ? searchByImage(file, options, anyAbort) : searchById(id, options, anyAbort));
    onSnapshot(answer.snapshot);
    notice.replaceChildren();
    const measure = answer.metric === "cosine" || answer.metric === "ip" ? "similarity" : "distance";
    status.textContent = answer.hits.length
      ? `${plural(answer.hits.length, "neighbour")}, nearest first, by ${answer.metric} ${measure}`
      : "no detection fits this filter";
    if (answer.query) showClasses(answer.query);
    fill(grid, answer.hits, pictures);
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
