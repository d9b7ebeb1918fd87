// Browse: what the index holds, filtered, a page at a time.

import { getPage } from "./api.js";
import { count, el, plural } from "./dom.js";
import { makeFilters } from "./filters.js";
import { fill, makeGrid } from "./grid.js";
import { guarded } from "./message.js";
import { chosenOf, hashOf, whereOf } from "./where.js";

const PER_PAGE = 48;

export function browse({ main, signal, pictures, params, seen, title }) {
  title("Browse");
  const filters = makeFilters(params, {
    signal,
    changed: (given) => {
      location.hash = hashOf("", given);
    },
  });
  const status = el("p", { class: "count", role: "status" });
  const place = el("div", { class: "place" });
  const grid = makeGrid("Detections");
  const pager = el("nav", { class: "pager", "aria-label": "Pages" });
  const heading = el("h1", { tabindex: "-1" }, "Detections");
  main.append(
    el(
      "div",
      { class: "two" },
      el("aside", { "aria-label": "Filter" }, filters.panel),
      el("section", { "aria-label": "Detections" }, el("div", { class: "head" }, heading, status), place, grid, pager),
    ),
  );
  let asked = null;

  async function show(given) {
    asked?.abort();
    asked = new AbortController();
    const both = AbortSignal.any([signal, asked.signal]);
    grid.setAttribute("aria-busy", "true");
    place.replaceChildren();
    await guarded(() => load(given, both), { place, signal: both });
    if (place.hasChildNodes()) {
      status.textContent = "";
      pictures.clear(grid);
      pager.replaceChildren();
    }
    if (!both.aborted) grid.removeAttribute("aria-busy");
  }

  async function load(given, both) {
    const page = Math.max(1, Number.parseInt(given.page ?? "1", 10) || 1);
    const found = await getPage(whereOf(chosenOf(given)), PER_PAGE, (page - 1) * PER_PAGE, both);
    seen(found.snapshot);
    place.replaceChildren();
    const first = found.offset + 1;
    const last = found.offset + found.detections.length;
    status.textContent = found.detections.length
      ? `${plural(found.total, "detection")}, ${count(first)} to ${count(last)} shown`
      : `${plural(found.total, "detection")}${found.total ? "; this page is past the end" : " fit this filter"}`;
    fill(grid, found.detections, pictures);
    const pages = Math.ceil(found.total / PER_PAGE);
    const to = (number, name, rel) =>
      number >= 1 && number <= pages
        ? el("a", { class: "button", rel, href: hashOf("", { ...chosenOf(given), page: number === 1 ? "" : number }) }, name)
        : el("span", {});
    pager.replaceChildren(
      ...(pages > 1
        ? [
            to(Math.min(page - 1, pages), "← Previous", "prev"),
            el("span", {}, `Page ${count(page)} of ${count(pages)}`),
            to(page + 1, "Next →", "next"),
          ]
        : []),
    );
  }

  show(params);
  return {
    heading,
    focusFilter: filters.focus,
    update(next) {
      if ((next.page ?? "") !== (params.page ?? "")) {
        window.scrollTo(0, 0);
        heading.focus({ preventScroll: true });
      }
      params = next;
      filters.set(next);
      show(next);
    },
  };
}
