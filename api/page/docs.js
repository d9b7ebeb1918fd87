// The OpenAPI document as a page: every route, its parameters, bodies and answers, and every model.

import { el } from "./dom.js";

const main = document.querySelector("#main");
const LIMITS = [
  ["minimum", "at least"],
  ["maximum", "at most"],
  ["minLength", "characters, at least"],
  ["maxLength", "characters, at most"],
  ["minItems", "items, at least"],
  ["maxItems", "items, at most"],
];

// A type in words: text, links to models, and limits.
function typeOf(schema) {
  if (schema.$ref) {
    const name = schema.$ref.split("/").at(-1);
    return [el("a", { href: `#model-${name}` }, name)];
  }
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices) return choices.flatMap((choice, number) => [number ? " or " : "", ...typeOf(choice)]);
  if (schema.enum) return [schema.enum.map((value) => JSON.stringify(value)).join(" or ")];
  if (schema.const !== undefined) return [JSON.stringify(schema.const)];
  const limits = LIMITS.filter(([name]) => name in schema).map(([name, words]) => `${words} ${schema[name]}`);
  const more = limits.length ? ` (${limits.join(", ")})` : "";
  if (schema.type === "array" && schema.items) return ["list of ", ...typeOf(schema.items), more];
  return [(schema.type ?? "any value") + more];
}

function row(name, schema, { required, place, description }) {
  const notes = [place, required ? "required" : null];
  if (schema.default !== undefined && schema.default !== null) notes.push(`default ${JSON.stringify(schema.default)}`);
  return el(
    "tr",
    {},
    el("th", { scope: "row" }, el("code", {}, name)),
    el("td", {}, typeOf(schema), el("br"), el("small", {}, notes.filter(Boolean).join(", "))),
    el("td", {}, description ?? schema.description ?? ""),
  );
}

const table = (rows) => (rows.length ? el("table", {}, el("tbody", {}, rows)) : null);

const fields = (schema) =>
  table(
    Object.entries(schema.properties ?? {}).map(([name, field]) =>
      row(name, field, { required: schema.required?.includes(name) }),
    ),
  );

const examples = (schema) =>
  (schema.examples ?? []).map((example) => el("pre", {}, JSON.stringify(example, null, 2)));

function route(path, method, operation) {
  const parameters = (operation.parameters ?? []).map((each) =>
    row(each.name, each.schema ?? {}, { required: each.required, place: each.in, description: each.description }),
  );
  const bodies = Object.entries(operation.requestBody?.content ?? {}).map(([type, { schema }]) =>
    el("p", {}, `Body, ${type}: `, typeOf(schema)),
  );
  const answers = Object.entries(operation.responses ?? {}).map(([status, answer]) =>
    el(
      "li",
      {},
      el("code", {}, status),
      ` ${answer.description ?? ""} `,
      Object.values(answer.content ?? {}).flatMap(({ schema }) => (schema?.$ref ? typeOf(schema) : [])),
    ),
  );
  return el(
    "section",
    { class: "panel" },
    el("h3", {}, el("code", {}, `${method.toUpperCase()} ${path}`)),
    el("p", {}, operation.summary ?? "", operation.security ? " (needs the key, if the server has one)" : ""),
    operation.description ? el("p", {}, operation.description) : null,
    table(parameters),
    bodies,
    el("ul", {}, answers),
  );
}

function show(document) {
  const routes = Object.entries(document.paths).flatMap(([path, operations]) =>
    Object.entries(operations).map(([method, operation]) => route(path, method, operation)),
  );
  const models = Object.entries(document.components.schemas).map(([name, schema]) =>
    el(
      "section",
      { class: "panel", id: `model-${name}` },
      el("h3", {}, el("code", {}, name)),
      el("p", {}, schema.description ?? ""),
      fields(schema),
      examples(schema),
    ),
  );
  main.replaceChildren(
    el("h1", {}, `${document.info.title} ${document.info.version}`),
    el("p", {}, document.info.summary ?? ""),
    el("h2", { id: "routes" }, "Routes"),
    ...routes,
    el("h2", { id: "models" }, "Models"),
    ...models,
  );
}

try {
  const response = await fetch("openapi.json");
  if (!response.ok) throw new Error(`the server answered ${response.status}`);
  show(await response.json());
} catch (error) {
  main.replaceChildren(el("p", { class: "message", role: "alert" }, `openapi.json cannot be read: ${error.message}`));
}
