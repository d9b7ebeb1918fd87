// One detection: its crop, its fields, and its track as a strip in time.

import { getDetection, getTrack } from "./api.js";
import { count, el, definitions, nameOf, plural, time } from "./dom.js";
import { arrows, rove } from "./grid.js";
import { showingErrors } from "./message.js";
import { detectionHash, hashOf } from "./where.js";

const TERMS = ["feature", "iou", "area", "distance"];

export function detection({ main, signal, pictures, id, onSnapshot, title, close }) {
  title(id);
  const heading = el("h1", { tabindex: "-1" }, "Detection");
  const notice = el("div", { class: "notice" });
  const body = el("div", { class: "detection" });
  const strip = el("section", { class: "track", "aria-labelledby": "track-title" });
  main.append(
    el("div", { class: "head split" }, heading, el("button", { type: "button", class: "quiet", onclick: close }, "← Back")),
    notice,
    body,
    strip,
  );
  showingErrors(showFacts, { target: notice, signal });

  async function showFacts() {
    const row = await getDetection(id, signal);
    onSnapshot();
    notice.replaceChildren();
    heading.textContent = nameOf(row);
    title(`${nameOf(row)}, ${id}`);
    body.replaceChildren(
      pictures.frame(id, `Crop of ${nameOf(row)}, detection ${id}`),
      el(
        "div",
        {},
        el("div", { class: "row" }, el("a", { class: "button primary", href: hashOf("search", { id }) }, "Neighbours of this")),
        definitions([
          ["Class", row.label === null ? null : el("a", { href: hashOf("", { label: row.label }) }, row.label)],
          ["Class score", row.label_score?.toFixed(3)],
          ["Sequence", row.sequence === null ? null : el("a", { href: hashOf("", { sequence: row.sequence }) }, row.sequence)],
          ["Time", time(row.timestamp)],
          ["Frame", row.frame === null ? null : String(row.frame)],
          ["Image", row.image],
          ["Box", row.box ? boxOf(row.box) : "the whole image"],
          ...Object.entries(row.payload ?? {}).map(([name, value]) => [name, value === null ? null : String(value)]),
          ["Id", el("code", {}, id)],
        ]),
      ),
    );
    await showingErrors(showTrack, { target: strip, signal });
  }

  async function showTrack() {
    let track;
    try {
      track = await getTrack(id, signal);
    } catch (error) {
      if (error.code !== "no_track") throw error;
      strip.replaceChildren(heading2("Track"), el("p", { class: "hint" }, error.message));
      return;
    }
    const steps = track.detections;
    const list = el("ol", { class: "strip", "aria-label": "Detections of the track in order" });
    steps.forEach((step, index) => list.append(item(step, steps[index - 1])));
    arrows(list);
    const links = [...list.querySelectorAll("a")];
    const current = list.querySelector("[aria-current]");
    rove(links, current ?? links[0]);
    const missing = steps.at(-1).frame - steps[0].frame + 1 - steps.length;
    strip.replaceChildren(
      heading2("Track"),
      el("p", { class: "count" }, `${plural(steps.length, "detection")}, frames ${count(track.first_frame)} to ${count(track.last_frame)}${missing > 0 ? `, missing in ${count(missing)}` : ""}; the number between two is the cost of their link`),
      list,
    );
    // Not scrollIntoView, which would move the page as well.
    if (current) list.scrollLeft = current.offsetLeft - (list.clientWidth - current.clientWidth) / 2;
  }

  function item(step, before) {
    const shown = step.detection;
    const isCurrent = step.detection_id === id;
    const inner = [
      shown
        ? pictures.frame(step.detection_id, `Crop of ${nameOf(shown)} in frame ${step.frame}`)
        : el("span", { class: "frame failed" }, el("span", { class: "why" }, "not in this snapshot")),
      el("span", { class: "caption" }, el("span", { class: "label" }, `Frame ${count(step.frame)}`), el("span", { class: "meta" }, (shown && time(shown.timestamp)?.split(" ")[1]) ?? "")),
    ];
    return el(
      "li",
      {},
      before ? linkOf(step, before) : null,
      shown
        ? el("a", { class: "card", href: detectionHash(step.detection_id), "data-id": step.detection_id, "aria-current": isCurrent ? "true" : null }, inner)
        : el("span", { class: "card" }, inner),
    );
  }

  return { heading, close: true, update: () => false };
}

function linkOf(step, before) {
  const skipped = step.frame - before.frame - 1;
  const terms = TERMS.map((term) => `${term} ${step[`cost_${term}`]?.toFixed(3) ?? "unknown"}`);
  return el(
    "span",
    { class: skipped > 0 ? "link gap" : "link", title: terms.join(", ") },
    el("span", { class: "visually-hidden" }, "Link cost "),
    el("span", { class: "cost" }, step.cost?.toFixed(3) ?? "?"),
    el("span", { class: "line", "aria-hidden": "true" }),
    skipped > 0 ? el("span", { class: "skipped" }, `gap of ${plural(skipped, "frame")}`) : null,
  );
}

const heading2 = (text) => el("h2", { id: "track-title" }, text);

function boxOf([x1, y1, x2, y2]) {
  const round = (number) => String(Math.round(number * 10) / 10);
  return `${round(x1)}, ${round(y1)} to ${round(x2)}, ${round(y2)} (${round(x2 - x1)} × ${round(y2 - y1)} px)`;
}
