// The filter: controls whose values live in the URL and become one condition.

import { getFacets, getIndex } from "./api.js";
import { count, el } from "./dom.js";
import { filtersOf, FIELDS, whereOf } from "./where.js";

const LISTED = 500;
const DEBOUNCE_MS = 300; // a select changes with every arrow key; only the last value is applied

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
  const column = el("select", { name: "column", id: "f-column", onchange: () => listOfColumn("") });
  const value = el("select", { name: "value", id: "f-value" });
  const columns = el("p", { class: "hint", id: "f-columns" }, "Enter applies it.");
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
    columns,
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
    field("Column", column),
    field("Value", value),
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
  listColumns();

  function read() {
    const values = filtersOf(Object.fromEntries(new FormData(form)));
    if (values.score === "0") values.score = "";
    if (!values.value) values.column = ""; // a column alone filters nothing
    return values;
  }

  function set(next) {
    const values = filtersOf(next);
    applied = JSON.stringify(values);
    choose(label, values.label);
    choose(sequence, values.sequence);
    choose(column, values.column);
    listOfColumn(values.value);
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

  async function listColumns() {
    let names;
    try {
      names = Object.keys((await getIndex(signal)).columns);
    } catch (error) {
      if (error.name !== "AbortError") column.title = error.message;
      return;
    }
    columns.textContent = `Columns: ${names.join(" ")}. Enter applies it.`;
    const selected = column.value;
    const others = names.filter((name) => name !== "label" && name !== "sequence" && name !== "image");
    column.replaceChildren(any("none"), ...others.map((name) => el("option", { value: name }, name)));
    choose(column, selected);
  }

  // The values of the chosen column, `selected` among them.
  function listOfColumn(selected) {
    value.replaceChildren();
    choose(value, selected);
    value.closest(".field").hidden = column.value === "";
    if (column.value) listValues(value, column.value);
  }

  // List the values of a column, most frequent first; without them the filter still works.
  async function listValues(select, name) {
    let facets;
    try {
      facets = await getFacets(name, LISTED, signal);
    } catch (error) {
      if (error.name !== "AbortError") select.title = error.message;
      return;
    }
    if (select === value && name !== column.value) return; // another column was chosen meanwhile
    const selected = select.value;
    select.replaceChildren(
      any(),
      ...facets.values
        .filter(({ value }) => value !== "")
        .map(({ value, rows }) => el("option", { value: String(value) }, `${value} (${count(rows)})`)),
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

const any = (name = "any") => el("option", { value: "" }, name);

function choose(select, value) {
  const listed = [...select.options].some((option) => option.value === value);
  if (!listed) select.append(value ? el("option", { value }, value) : any());
  select.value = value;
}
