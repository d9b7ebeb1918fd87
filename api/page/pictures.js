// Crops, fetched when they come into sight (the key travels in a header, so <img src> cannot).
//
// One Pictures belongs to one view: when the view goes, what is on its way is stopped and every
// blob URL is given back. The bytes of recent crops stay, so that going back shows them at once.

import { getCrop } from "./api.js";
import { el } from "./dom.js";

const AT_ONCE = 4;
const TRIES = 4;
const KEPT_BYTES = 48e6;

const kept = new Map(); // id to Blob, oldest first
let keptBytes = 0;
let running = 0;
const waiting = new Set();

export class Pictures {
  #stop = new AbortController();
  #urls = new Map();
  #jobs = new WeakMap();
  #sight = new IntersectionObserver((entries) => this.#seen(entries), { rootMargin: "300px" });

  // A frame that fills itself with the crop of a detection once it is near the window.
  frame(id, alt) {
    const frame = el("span", { class: "frame" }, el("img", { alt, draggable: "false" }));
    this.#jobs.set(frame, { id, frame, pictures: this });
    this.#sight.observe(frame);
    return frame;
  }

  // A frame of a picture that is here already.
  here(blob, alt) {
    const frame = el("span", { class: "frame" }, el("img", { alt, draggable: "false" }));
    this.#put(frame, blob);
    return frame;
  }

  // Take down what `node` holds: its pictures are gone.
  clear(node) {
    for (const frame of node.querySelectorAll(".frame")) {
      this.#sight.unobserve(frame);
      waiting.delete(this.#jobs.get(frame));
      this.#revoke(frame);
    }
    node.replaceChildren();
  }

  dispose() {
    this.#stop.abort();
    this.#sight.disconnect();
    for (const job of [...waiting]) if (job.pictures === this) waiting.delete(job);
    for (const frame of [...this.#urls.keys()]) this.#revoke(frame);
  }

  #seen(entries) {
    for (const { target, isIntersecting } of entries) {
      const job = this.#jobs.get(target);
      if (!job) continue;
      if (isIntersecting) waiting.add(job);
      else waiting.delete(job); // scrolled past before its turn
    }
    next();
  }

  async load(job) {
    const { id, frame } = job;
    this.#sight.unobserve(frame);
    try {
      const blob = kept.get(id) ?? (await fetchPatiently(id, this.#stop.signal));
      keep(id, blob);
      if (!this.#stop.signal.aborted && frame.isConnected) this.#put(frame, blob);
    } catch (error) {
      if (error.name === "AbortError") return;
      frame.classList.add("failed");
      frame.append(el("span", { class: "why" }, error.message));
    }
  }

  #put(frame, blob) {
    const url = URL.createObjectURL(blob);
    this.#urls.set(frame, url);
    const image = frame.querySelector("img");
    image.addEventListener("load", () => frame.classList.add("ready"), { once: true });
    image.addEventListener("error", () => {
      frame.classList.add("failed");
      frame.append(el("span", { class: "why" }, "this browser cannot show the picture"));
    }, { once: true });
    image.src = url;
  }

  #revoke(frame) {
    const url = this.#urls.get(frame);
    if (url) URL.revokeObjectURL(url);
    this.#urls.delete(frame);
  }
}

function next() {
  while (running < AT_ONCE && waiting.size) {
    const [job] = waiting;
    waiting.delete(job);
    running += 1;
    job.pictures.load(job).finally(() => {
      running -= 1;
      next();
    });
  }
}

async function fetchPatiently(id, signal) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await getCrop(id, signal);
    } catch (error) {
      if (error.name === "AbortError" || error.wait === null || attempt === TRIES) throw error;
      await pause(error.wait, signal);
    }
  }
}

export function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    if (signal.aborted) stop();
    signal.addEventListener("abort", stop, { once: true });
  });
}

function keep(id, blob) {
  if (kept.has(id)) {
    kept.delete(id); // to the young end
  } else {
    keptBytes += blob.size;
  }
  kept.set(id, blob);
  for (const [oldest, old] of kept) {
    if (keptBytes <= KEPT_BYTES) break;
    kept.delete(oldest);
    keptBytes -= old.size;
  }
}
