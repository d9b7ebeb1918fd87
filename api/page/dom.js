// Making elements. Text is always a text node: nothing that a server sent is parsed as HTML.

export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "class") node.className = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

// A definition list; entries without a value are left out.
export function definitions(entries) {
  return el(
    "dl",
    { class: "facts" },
    entries
      .filter(([, value]) => value !== null && value !== undefined && value !== "")
      .map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))),
  );
}

export const count = (number) => number.toLocaleString("en");
export const plural = (number, singular, many = `${singular}s`) => `${count(number)} ${number === 1 ? singular : many}`;
export const nameOf = (detection) => detection.label ?? "no class";

// The camera's own clock, so it is shown as it stands and never moved to a time zone.
export function time(stamp) {
  return stamp ? stamp.replace("T", " ").replace(/\.0+$/, "") : null;
}
