// Detections as a grid of crops: links, one of them in the Tab order, arrow keys between them.

import { count, el, nameOf, time } from "./dom.js";
import { detectionHash } from "./where.js";

export function makeGrid(label) {
  const grid = el("ul", { class: "grid", "aria-label": label });
  arrows(grid);
  return grid;
}

// `rank` and `score` are set where the detections are neighbours of something; `onExample(id, sign)`
// is called to search by one as an example of what to find ("+") or to avoid ("-").
export function card(detection, pictures, onExample) {
  const { rank, score, group } = detection;
  const isHit = rank !== undefined;
  return el(
    "li",
    {},
    el(
      "a",
      { class: "card", href: detectionHash(detection.detection_id), "data-id": detection.detection_id },
      pictures.frame(detection.detection_id, `Crop of ${nameOf(detection)}`),
      isHit ? el("span", { class: "rank" }, el("span", { class: "visually-hidden" }, "Rank "), count(rank)) : null,
      el(
        "span",
        { class: "caption" },
        el("span", { class: "label" }, nameOf(detection)),
        isHit ? number("Score", score.toFixed(3)) : number("Class score", detection.label_score?.toFixed(2) ?? ""),
        group !== null && group !== undefined && group !== detection.sequence && group !== detection.label
          ? el("span", { class: "meta" }, String(group))
          : null,
        el("span", { class: "meta" }, detection.sequence),
        el("span", { class: "meta" }, time(detection.timestamp)),
      ),
    ),
    onExample ? examples(detection, onExample) : null,
  );
}

// Not in the Tab order, which has one stop for all cards: the keys + and - do the same.
function examples(detection, onExample) {
  const button = (sign, name, text) =>
    el(
      "button",
      {
        type: "button", class: "quiet", tabindex: "-1", title: `${name} (key ${sign})`,
        "aria-label": `${name}: ${nameOf(detection)}`, "data-sign": sign,
        onclick: () => onExample(detection.detection_id, sign),
      },
      text,
    );
  return el("div", { class: "examples" }, button("+", "More like this", "+ more"), button("-", "Less like this", "− less"));
}

function number(name, value) {
  return el("span", { class: "score", title: name }, el("span", { class: "visually-hidden" }, `${name} `), value);
}

// Fill `grid`; the card that was followed last from this entry of the history gets the focus.
export function fill(grid, detections, pictures, onExample) {
  pictures.clear(grid);
  grid.append(...detections.map((detection) => card(detection, pictures, onExample)));
  const back = history.state?.focus;
  const links = [...grid.querySelectorAll("a")];
  const previous = links.find((link) => link.dataset.id === back);
  rove(links, previous ?? links[0]);
  if (previous) previous.focus();
  return Boolean(previous);
}

// Arrow keys, Home and End among the links of `list`; one link is in the Tab order at a time.
export function arrows(list) {
  list.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || (event.shiftKey && event.key !== "+")) return;
    const links = [...list.querySelectorAll("a")];
    const index = links.indexOf(document.activeElement);
    if (index < 0) return;
    if (event.key === "+" || event.key === "-") {
      links[index].parentElement.querySelector(`[data-sign="${event.key}"]`)?.click();
      return;
    }
    const top = links[0].getBoundingClientRect().top;
    const inRow = links.filter((link) => Math.abs(link.getBoundingClientRect().top - top) < 2).length;
    const to = {
      ArrowLeft: index - 1,
      ArrowRight: index + 1,
      ArrowUp: index - inRow,
      ArrowDown: index + inRow,
      Home: 0,
      End: links.length - 1,
    }[event.key];
    if (to === undefined || !links[to]) return;
    event.preventDefault();
    links[to].focus();
  });
  list.addEventListener("focusin", (event) => {
    const link = event.target.closest("a");
    if (link) rove([...list.querySelectorAll("a")], link);
  });
  list.addEventListener("click", (event) => {
    const id = event.target.closest("a")?.dataset.id;
    if (id !== undefined) history.replaceState({ ...history.state, focus: id }, "");
  });
}

export function rove(links, current) {
  for (const link of links) link.tabIndex = link === current ? 0 : -1;
}
