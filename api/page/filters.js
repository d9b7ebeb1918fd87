// The filter: controls whose values live in the URL and become one condition.

import { getFacets } from "./api.js";
import { count, el } from "./dom.js";
import { chosenOf, FIELDS, whereOf } from "./where.js";

const LISTED = 500;
const SETTLE_MS = 300; // a select changes with every arrow key; only where it stops is asked for
const COLUMNS =
  "run row_id detection_id image x1 y1 x2 y2 sequence timestamp frame label label_index score";

// Gives the element to show and `set(params)`; `changed` is called with the new values.
export function makeFilters(params, { changed, signal }) {
  const label = el("select", { name: "label", id: "f-label" });
  const sequence = el("select", { name: "sequence", id: "f-sequence" });
  const score = el("input", {
    name: "score", id: "f-score", type: "range", min: "0", max: "1", step: "0.05",
  });
  const least = el("span", { class: "least" });
  const from = el("input", { name: "from", id: "f-from", type: "datetime-local", step: "1" });
  const to = el("input", { name: "to", id: "f-to", type: "datetime-local", step: "1" });
  const where = el("textarea", {
    name: "where", id: "f-where", rows: "3", spellcheck: "false", autocapitalize: "off",
    "aria-describedby": "f-columns", placeholder: "label LIKE 'Noctua%' AND frame > 10",
  });
  const expert = el(
    "details",
    { class: "expert" },
    el("summary", {}, "Expression"),
    el("label", { for: "f-where", class: "unseen" }, "Expression, as behind WHERE in SQL"),
    where,
    el("p", { class: "hint", id: "f-columns" }, `Columns: ${COLUMNS}. Enter applies it.`),
  );
  const condition = el("code", { class: "condition" });
  const form = el(
    "form",
    { "aria-label": "Filter", onsubmit: submit, oninput: typed, onchange: typed },
    field("Class", label),
    field("Sequence", sequence),
    el("div", { class: "field" }, el("label", { for: "f-score" }, "Minimal class score: ", least), score),
    field("From", from),
    field("Until", to),
    expert,
    condition,
    el(
      "div",
      { class: "row" },
      el("button", { class: "primary" }, "Apply"),
      el("button", { type: "button", onclick: clear }, "Clear"),
    ),
  );
  const number = el("span", { class: "number" });
  const panel = el("details", { class: "filters" }, el("summary", {}, "Filter ", number), form);
  const wide = matchMedia("(min-width: 60rem)");
  const unfold = () => {
    panel.open = wide.matches;
  };
  unfold();
  wide.addEventListener("change", unfold, { signal });
  let timer = 0;
  let applied = "";
  signal.addEventListener("abort", () => clearTimeout(timer));
  where.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey) return;
    event.preventDefault();
    form.requestSubmit();
  });
  set(params);
  offer(label, "label");
  offer(sequence, "sequence");

  function values() {
    const given = chosenOf(Object.fromEntries(new FormData(form)));
    if (given.score === "0") given.score = "";
    return given;
  }

  function set(next) {
    const given = chosenOf(next);
    applied = JSON.stringify(given);
    choose(label, given.label);
    choose(sequence, given.sequence);
    score.value = given.score || "0";
    for (const control of [from, to, where]) control.value = given[control.name];
    if (given.where) expert.open = true;
    tell();
  }

  function tell() {
    const given = values();
    const used = FIELDS.filter((name) => given[name]).length;
    least.textContent = score.value === "0" ? "any" : Number(score.value).toFixed(2);
    number.textContent = used ? `(${used})` : "";
    condition.textContent = whereOf(given) ?? "";
    condition.hidden = condition.textContent === given.where.trim(); // it stands there already
  }

  function typed(event) {
    tell();
    clearTimeout(timer);
    // An expression is asked for when it is finished; the rest at once.
    if (event.type === "change" && event.target !== where) timer = setTimeout(apply, SETTLE_MS);
  }

  function submit(event) {
    event.preventDefault();
    apply();
  }

  function clear() {
    set({});
    applied = "";
    apply();
  }

  function apply() {
    clearTimeout(timer);
    const given = values();
    if (JSON.stringify(given) !== applied) changed(given);
  }

  // The values there are, most frequent first. Without them the filter works as before.
  async function offer(select, column) {
    let found;
    try {
      found = await getFacets(column, LISTED, signal);
    } catch (error) {
      if (error.name !== "AbortError") select.title = error.message;
      return;
    }
    const chosen = select.value;
    select.replaceChildren(
      any(),
      ...found.values
        .filter(({ value }) => value !== "")
        .map(({ value, rows }) => el("option", { value }, `${value} (${count(rows)})`)),
    );
    if (found.total > found.values.length) {
      const rest = count(found.total - found.values.length);
      select.append(el("option", { disabled: true }, `and ${rest} rarer ones: use an expression`));
    }
    choose(select, chosen);
  }

  return { panel, set, focus: () => {
    panel.open = true;
    label.focus();
  } };
}

function field(name, control) {
  return el("div", { class: "field" }, el("label", { for: control.id }, name), control);
}

const any = () => el("option", { value: "" }, "any");

function choose(select, value) {
  const known = [...select.options].some((option) => option.value === value);
  if (!known) select.append(value ? el("option", { value }, value) : any());
  select.value = value;
}
