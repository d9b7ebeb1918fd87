// Index: what is being served, how well it finds what it should, and what is in it.

import { getFacets, getIndex } from "./api.js";
import { count, el, facts, plural } from "./dom.js";
import { guarded } from "./message.js";
import { hashOf } from "./where.js";

const LISTED = 12;

export function index({ main, signal, seen, title }) {
  title("Index");
  const heading = el("h1", { tabindex: "-1" }, "Index");
  const place = el("div", { class: "place" });
  const body = el("div", { class: "columns" });
  main.append(heading, place, body);
  guarded(show, { place, signal });

  async function show() {
    const [served, labels, sequences] = await Promise.all([
      getIndex(signal),
      getFacets("label", LISTED, signal),
      getFacets("sequence", LISTED, signal),
    ]);
    seen(served.version);
    place.replaceChildren();
    const { recall, model } = served;
    const { preprocess } = model;
    body.replaceChildren(
      part("Served", [
        ["Version", served.version],
        ["Versions", served.versions?.map(versionName).join(", ")],
        ["Detections", count(served.rows)],
        ["Dimensions", count(served.dim)],
        ["Metric", served.metric],
        ["Index", el("code", {}, served.factory)],
        [`Recall@${recall.k}`, recall.measured === null ? "not measured: too few rows" : `${recall.measured.toFixed(3)} measured, ${recall.target} asked for`],
        ["Runs", served.runs.join(", ")],
      ]),
      part("Model", [
        ["Model", model.spec],
        ["Classes", count(model.num_classes)],
        ["Features", `${model.feature_kind}, ${count(model.feature_dim)}`],
        ["Input", preprocess?.input_size?.join(" × ")],
        ["Weights", el("code", {}, model.weights_sha256.slice(0, 16))],
        ["Fingerprint", el("code", {}, served.fingerprint.slice(0, 16))],
      ]),
      bars("Classes", "label", labels, served.rows),
      bars("Sequences", "sequence", sequences, served.rows),
    );
  }
  return { heading, update: () => false };
}

const versionName = (one) => (typeof one === "string" ? one : one.version);

function part(name, entries) {
  return el("section", { class: "panel" }, el("h2", {}, name), facts(entries));
}

function bars(name, column, found, rows) {
  const rest = found.total - found.values.length;
  return el(
    "section",
    { class: "panel" },
    el("h2", {}, name, " ", el("span", { class: "number" }, count(found.total))),
    el(
      "ul",
      { class: "bars" },
      found.values.map((one) =>
        el(
          "li",
          {},
          el("a", { class: "label", href: hashOf("", { [column]: one.value }) }, one.value),
          el("span", { class: "score" }, count(one.rows)),
          el("meter", { min: "0", max: String(rows), value: String(one.rows), "aria-hidden": "true" }),
        ),
      ),
    ),
    rest > 0 ? el("p", { class: "hint" }, `and ${plural(rest, "other")}`) : null,
  );
}
