// Browse: the detections of the index, filtered, a page at a time.

import { getIndex, getPage } from "./api.js";
import { count, el, plural } from "./dom.js";
import { makeFilters } from "./filters.js";
import { fill, makeGrid } from "./grid.js";
import { showingErrors } from "./message.js";
import { filtersOf, hashOf, whereOf } from "./where.js";

const PER_PAGE = 48;

export function browse({ main, signal, pictures, params, onSnapshot, title }) {
  title("Browse");
  const filters = makeFilters(params, {
    signal,
    changed: (filters) => change(filters),
  });
  const order = el("select", { id: "b-order", onchange: () => change({ order: order.value }) });
  const descending = el("input", {
    type: "checkbox", id: "b-desc", onchange: () => change({ desc: descending.checked ? "1" : "" }),
  });
  const status = el("p", { class: "count", role: "status" });
  const notice = el("div", { class: "notice" });
  const grid = makeGrid("Detections");
  const pager = el("nav", { class: "pager", "aria-label": "Pages" });
  const heading = el("h1", { tabindex: "-1" }, "Detections");
  main.append(
    el(
      "div",
      { class: "two" },
      el(
        "aside",
        { "aria-label": "Filter" },
        el(
          "div",
          { class: "row options" },
          el("div", { class: "row" }, el("label", { for: "b-order" }, "Order by"), order),
          el("label", {}, descending, " descending"),
        ),
        filters.panel,
      ),
      el("section", { "aria-label": "Detections" }, el("div", { class: "head" }, heading, status), notice, grid, pager),
    ),
  );
  let controller = null;

  const orderOf = ({ order = "", desc = "" }) => ({ order, desc });

  function change(changes) {
    location.hash = hashOf("", { ...filtersOf(params), ...orderOf(params), ...changes });
  }

  async function listOrders() {
    let names = [];
    try {
      names = Object.keys((await getIndex(signal)).columns);
    } catch (error) {
      if (error.name === "AbortError") return;
      order.title = error.message;
    }
    if (params.order && !names.includes(params.order)) names.push(params.order);
    order.replaceChildren(
      el("option", { value: "" }, "as indexed"),
      ...names.map((name) => el("option", { value: name }, name)),
    );
    order.value = params.order ?? "";
  }

  async function show(params) {
    order.value = params.order ?? "";
    descending.checked = params.desc === "1";
    controller?.abort();
    controller = new AbortController();
    const anyAbort = AbortSignal.any([signal, controller.signal]);
    grid.setAttribute("aria-busy", "true");
    notice.replaceChildren();
    await showingErrors(() => load(params, anyAbort), { target: notice, signal: anyAbort });
    if (notice.hasChildNodes()) {
      status.textContent = "";
      pictures.clear(grid);
      pager.replaceChildren();
    }
    if (!anyAbort.aborted) grid.removeAttribute("aria-busy");
  }

  async function load(params, anyAbort) {
    const page = Math.max(1, Number.parseInt(params.page ?? "1", 10) || 1);
    const sorted = params.order
      ? { order_by: params.order, direction: params.desc === "1" ? "desc" : "asc" }
      : {};
    const where = whereOf(filtersOf(params));
    const answer = await getPage(
      { where, ...sorted, limit: PER_PAGE, offset: (page - 1) * PER_PAGE },
      anyAbort,
    );
    onSnapshot(answer.snapshot);
    notice.replaceChildren();
    const first = answer.offset + 1;
    const last = answer.offset + answer.detections.length;
    status.textContent = answer.detections.length
      ? `${plural(answer.total, "detection")}, ${count(first)} to ${count(last)} shown`
      : `${plural(answer.total, "detection")}${answer.total ? "; this page is past the end" : " fit this filter"}`;
    fill(grid, answer.detections, pictures);
    const pages = Math.ceil(answer.total / PER_PAGE);
    const to = (number, name, rel) =>
      number >= 1 && number <= pages
        ? el("a", { class: "button", rel, href: hashOf("", { ...filtersOf(params), ...orderOf(params), page: number === 1 ? "" : number }) }, name)
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

  listOrders();
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
