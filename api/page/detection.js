// One detection: its crop, what is known of it, and its track as a strip in time.

import { getDetection, getTrack } from "./api.js";
import { count, el, facts, nameOf, plural, time } from "./dom.js";
import { arrows, rove } from "./grid.js";
import { guarded } from "./message.js";
import { detectionHash, hashOf } from "./where.js";

const TERMS = ["feature", "iou", "area", "distance"];

export function detection({ main, signal, pictures, id, seen, title, close }) {
  title(id);
  const heading = el("h1", { tabindex: "-1" }, "Detection");
  const place = el("div", { class: "place" });
  const body = el("div", { class: "detection" });
  const strip = el("section", { class: "track", "aria-labelledby": "track-title" });
  main.append(
    el("div", { class: "head beside" }, heading, el("button", { type: "button", class: "quiet", onclick: close }, "← Back")),
    place,
    body,
    strip,
  );
  guarded(showFacts, { place, signal });

  async function showFacts() {
    const one = await getDetection(id, signal);
    seen();
    place.replaceChildren();
    heading.textContent = nameOf(one);
    title(`${nameOf(one)}, ${id}`);
    body.replaceChildren(
      pictures.frame(id, `Crop of ${nameOf(one)}, detection ${id}`),
      el(
        "div",
        {},
        el("div", { class: "row" }, el("a", { class: "button primary", href: hashOf("search", { id }) }, "Neighbours of this")),
        facts([
          ["Class", one.label === null ? null : el("a", { href: hashOf("", { label: one.label }) }, one.label)],
          ["Class score", one.label_score?.toFixed(3)],
          ["Sequence", one.sequence === null ? null : el("a", { href: hashOf("", { sequence: one.sequence }) }, one.sequence)],
          ["Time", time(one.timestamp)],
          ["Frame", one.frame === null ? null : String(one.frame)],
          ["Image", one.image],
          ["Box", one.box ? boxOf(one.box) : "the whole image"],
          ["Id", el("code", {}, id)],
        ]),
      ),
    );
    await guarded(showTrack, { place: strip, signal });
  }

  async function showTrack() {
    let track;
    try {
      track = await getTrack(id, signal);
    } catch (error) {
      if (error.code !== "no_track") throw error;
      strip.replaceChildren(title2("Track"), el("p", { class: "hint" }, error.message));
      return;
    }
    const steps = track.detections;
    const list = el("ol", { class: "strip", "aria-label": "Detections of the track in order" });
    steps.forEach((step, at) => list.append(item(step, steps[at - 1])));
    arrows(list);
    const links = [...list.querySelectorAll("a")];
    const current = list.querySelector("[aria-current]");
    rove(links, current ?? links[0]);
    const missing = steps.at(-1).frame - steps[0].frame + 1 - steps.length;
    strip.replaceChildren(
      title2("Track"),
      el("p", { class: "count" }, `${plural(steps.length, "detection")}, frames ${count(track.first_frame)} to ${count(track.last_frame)}${missing > 0 ? `, unseen in ${count(missing)}` : ""}; the number between two is what the link cost, less is surer`),
      list,
    );
    // Not scrollIntoView, which would move the page as well.
    if (current) list.scrollLeft = current.offsetLeft - (list.clientWidth - current.clientWidth) / 2;
  }

  function item(step, before) {
    const known = step.detection;
    const here = step.detection_id === id;
    const inner = [
      known
        ? pictures.frame(step.detection_id, `Crop of ${nameOf(known)} in frame ${step.frame}`)
        : el("span", { class: "frame failed" }, el("span", { class: "why" }, "not in this snapshot")),
      el("span", { class: "caption" }, el("span", { class: "label" }, `Frame ${count(step.frame)}`), el("span", { class: "meta" }, (known && time(known.timestamp)?.split(" ")[1]) ?? "")),
    ];
    return el(
      "li",
      {},
      before ? linkOf(step, before) : null,
      known
        ? el("a", { class: "card", href: detectionHash(step.detection_id), "data-id": step.detection_id, "aria-current": here ? "true" : null }, inner)
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
    el("span", { class: "unseen" }, "Link cost "),
    el("span", { class: "cost" }, step.cost?.toFixed(3) ?? "?"),
    el("span", { class: "line", "aria-hidden": "true" }),
    skipped > 0 ? el("span", { class: "skipped" }, `gap of ${plural(skipped, "frame")}`) : null,
  );
}

const title2 = (text) => el("h2", { id: "track-title" }, text);

function boxOf([x1, y1, x2, y2]) {
  const round = (number) => String(Math.round(number * 10) / 10);
  return `${round(x1)}, ${round(y1)} to ${round(x2)}, ${round(y2)} (${round(x2 - x1)} × ${round(y2 - y1)} px)`;
}
