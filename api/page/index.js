// Index: what is being served, its recall and its model, and the values of its columns.

import { getFacets, getIndex } from "./api.js";
import { count, el, definitions, plural } from "./dom.js";
import { showingErrors } from "./message.js";
import { hashOf } from "./where.js";

const LISTED = 12;

export function index({ main, signal, onSnapshot, title }) {
  title("Index");
  const heading = el("h1", { tabindex: "-1" }, "Index");
  const notice = el("div", { class: "notice" });
  const body = el("div", { class: "columns" });
  main.append(heading, notice, body);
  showingErrors(show, { target: notice, signal });

  async function show() {
    const [served, labels, sequences] = await Promise.all([
      getIndex(signal),
      getFacets("label", LISTED, signal),
      getFacets("sequence", LISTED, signal),
    ]);
    onSnapshot(served.version);
    notice.replaceChildren();
    const { recall, model } = served;
    body.replaceChildren(
      part("Served", [
        ["Version", served.version],
        ["Versions", served.versions.join(", ")],
        ["Detections", count(served.rows)],
        ["Dimensions", count(served.dim)],
        ["Metric", served.metric],
        ["Index", el("code", {}, served.factory)],
        [`Recall@${recall.k}`, recall.measured === null ? "not measured: too few rows" : `${recall.measured.toFixed(3)} measured, target ${recall.target}`],
        ["Runs", served.runs.join(", ")],
      ]),
      part("Model", modelEntries(model, served.fingerprint)),
      bars("Classes", "label", labels, served.rows),
      bars("Sequences", "sequence", sequences, served.rows),
    );
  }
  return { heading, update: () => false };
}

// Vectors that were made elsewhere have no model; their fingerprint is what was said of it.
function modelEntries(model, fingerprint) {
  if (!model) return [["Vectors", fingerprint]];
  return [
    ["Model", model.spec],
    ["Classes", count(model.num_classes)],
    ["Features", `${model.feature_kind}, ${count(model.feature_dim)}`],
    ["Input", model.preprocess?.input_size?.join(" × ")],
    ["Weights", el("code", {}, model.weights_sha256.slice(0, 16))],
    ["Fingerprint", el("code", {}, fingerprint.slice(0, 16))],
  ];
}

function part(name, entries) {
  return el("section", { class: "panel" }, el("h2", {}, name), definitions(entries));
}

function bars(name, column, facets, rows) {
  const rest = facets.total - facets.values.length;
  return el(
    "section",
    { class: "panel" },
    el("h2", {}, name, " ", el("span", { class: "number" }, count(facets.total))),
    el(
      "ul",
      { class: "bars" },
      facets.values.map((facet) =>
        el(
          "li",
          {},
          el("a", { class: "label", href: hashOf("", { [column]: facet.value }) }, facet.value),
          el("span", { class: "score" }, count(facet.rows)),
          el("meter", { min: "0", max: String(rows), value: String(facet.rows), "aria-hidden": "true" }),
        ),
      ),
    ),
    rest > 0 ? el("p", { class: "hint" }, `and ${plural(rest, "other")}`) : null,
  );
}
