// The filter: controls whose values live in the URL and become one condition.

import { getFacets } from "./api.js";
import { count, el } from "./dom.js";
import { filtersOf, FIELDS, whereOf } from "./where.js";

const LISTED = 500;
const DEBOUNCE_MS = 300; // a select changes with every arrow key; only the last value is applied
const COLUMNS =
  "run row_id detection_id image x1 y1 x2 y2 sequence timestamp frame label label_index score";

// Gives the element to show and `set(params)`; `changed` is called with the new values.
export function makeFilters(params, { changed, signal }) {
  const label = el("select", { name: "label", id: "f-label" });
  const sequence = el("select", { name: "sequence", id: "f-sequence" });
  const score = el("input", {
    name: "score", id: "f-score", type: "range", min: "0", max: "1", step: "0.05",
  });
  const minScore = el("span", { class: "min-score" });
  const from = el("input", { name: "from", id: "f-from", type: "datetime-local", step: "1" });
  const to = el("input", { name: "to", id: "f-to", type: "datetime-local", step: "1" });
  const where = el("textarea", {
    name: "where", id: "f-where", rows: "3", spellcheck: "false", autocapitalize: "off",
    "aria-describedby": "f-columns", placeholder: "label LIKE 'Noctua%' AND frame > 10",
  });
  const advanced = el(
    "details",
    { class: "advanced" },
    el("summary", {}, "Expression"),
    el("label", { for: "f-where", class: "visually-hidden" }, "Expression, as behind WHERE in SQL"),
    where,
    el("p", { class: "hint", id: "f-columns" }, `Columns: ${COLUMNS}. Enter applies it.`),
  );
  const condition = el("code", { class: "condition" });
  const form = el(
    "form",
    { "aria-label": "Filter", onsubmit: submit, oninput: changedInput, onchange: changedInput },
    field("Class", label),
    field("Sequence", sequence),
    el("div", { class: "field" }, el("label", { for: "f-score" }, "Minimal class score: ", minScore), score),
    field("From", from),
    field("Until", to),
    advanced,
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
  listValues(label, "label");
  listValues(sequence, "sequence");

  function read() {
    const values = filtersOf(Object.fromEntries(new FormData(form)));
    if (values.score === "0") values.score = "";
    return values;
  }

  function set(next) {
    const values = filtersOf(next);
    applied = JSON.stringify(values);
    choose(label, values.label);
    choose(sequence, values.sequence);
    score.value = values.score || "0";
    for (const control of [from, to, where]) control.value = values[control.name];
    if (values.where) advanced.open = true;
    update();
  }

  function update() {
    const values = read();
    const used = FIELDS.filter((name) => values[name]).length;
    minScore.textContent = score.value === "0" ? "any" : Number(score.value).toFixed(2);
    number.textContent = used ? `(${used})` : "";
    condition.textContent = whereOf(values) ?? "";
    condition.hidden = condition.textContent === values.where.trim(); // the field shows it already
  }

  function changedInput(event) {
    update();
    clearTimeout(timer);
    // An expression is applied when it is submitted; the rest at once.
    if (event.type === "change" && event.target !== where) timer = setTimeout(apply, DEBOUNCE_MS);
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
    const values = read();
    if (JSON.stringify(values) !== applied) changed(values);
  }

  // List the values of a column, most frequent first; without them the filter still works.
  async function listValues(select, column) {
    let facets;
    try {
      facets = await getFacets(column, LISTED, signal);
    } catch (error) {
      if (error.name !== "AbortError") select.title = error.message;
      return;
    }
    const selected = select.value;
    select.replaceChildren(
      any(),
      ...facets.values
        .filter(({ value }) => value !== "")
        .map(({ value, rows }) => el("option", { value }, `${value} (${count(rows)})`)),
    );
    if (facets.total > facets.values.length) {
      const rest = count(facets.total - facets.values.length);
      select.append(el("option", { disabled: true }, `and ${rest} rarer ones: use an expression`));
    }
    choose(select, selected);
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
  const listed = [...select.options].some((option) => option.value === value);
  if (!listed) select.append(value ? el("option", { value }, value) : any());
  select.value = value;
}
