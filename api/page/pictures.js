// Crops, fetched when they become visible (the key travels in a header, so <img src> cannot).
//
// A view has its own Pictures: when it closes, requests under way are aborted and blob URLs
// revoked. The bytes of recent crops are cached, so that going back shows them at once.

import { getCrop } from "./api.js";
import { el } from "./dom.js";

const MAX_PARALLEL = 4;
const MAX_TRIES = 4;
const MAX_CACHE_BYTES = 48e6;

const cache = new Map(); // id to Blob, oldest first
let cacheBytes = 0;
let running = 0;
const waiting = new Set();

export class Pictures {
  #stop = new AbortController();
  #blobUrls = new Map();
  #jobs = new WeakMap();
  #observer = new IntersectionObserver((entries) => this.#onIntersection(entries), { rootMargin: "300px" });

  // A frame that fills itself with the crop of a detection once it is near the window.
  frame(id, alt) {
    const frame = el("span", { class: "frame" }, el("img", { alt, draggable: "false" }));
    this.#jobs.set(frame, { id, frame, pictures: this });
    this.#observer.observe(frame);
    return frame;
  }

  // A frame of a picture that needs no request.
  local(blob, alt) {
    const frame = el("span", { class: "frame" }, el("img", { alt, draggable: "false" }));
    this.#show(frame, blob);
    return frame;
  }

  // Empty `node` and release its pictures.
  clear(node) {
    for (const frame of node.querySelectorAll(".frame")) {
      this.#observer.unobserve(frame);
      waiting.delete(this.#jobs.get(frame));
      this.#revoke(frame);
    }
    node.replaceChildren();
  }

  dispose() {
    this.#stop.abort();
    this.#observer.disconnect();
    for (const job of [...waiting]) if (job.pictures === this) waiting.delete(job);
    for (const frame of [...this.#blobUrls.keys()]) this.#revoke(frame);
  }

  #onIntersection(entries) {
    for (const { target, isIntersecting } of entries) {
      const job = this.#jobs.get(target);
      if (!job) continue;
      if (isIntersecting) waiting.add(job);
      else waiting.delete(job); // scrolled past before its turn
    }
    startNext();
  }

  async load(job) {
    const { id, frame } = job;
    this.#observer.unobserve(frame);
    try {
      const blob = cache.get(id) ?? (await fetchWithRetries(id, this.#stop.signal));
      addToCache(id, blob);
      if (!this.#stop.signal.aborted && frame.isConnected) this.#show(frame, blob);
    } catch (error) {
      if (error.name === "AbortError") return;
      frame.classList.add("failed");
      frame.append(el("span", { class: "why" }, error.message));
    }
  }

  #show(frame, blob) {
    const url = URL.createObjectURL(blob);
    this.#blobUrls.set(frame, url);
    const image = frame.querySelector("img");
    image.addEventListener("load", () => frame.classList.add("ready"), { once: true });
    image.addEventListener("error", () => {
      frame.classList.add("failed");
      frame.append(el("span", { class: "why" }, "this browser cannot show the picture"));
    }, { once: true });
    image.src = url;
  }

  #revoke(frame) {
    const url = this.#blobUrls.get(frame);
    if (url) URL.revokeObjectURL(url);
    this.#blobUrls.delete(frame);
  }
}

function startNext() {
  while (running < MAX_PARALLEL && waiting.size) {
    const [job] = waiting;
    waiting.delete(job);
    running += 1;
    job.pictures.load(job).finally(() => {
      running -= 1;
      startNext();
    });
  }
}

async function fetchWithRetries(id, signal) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await getCrop(id, signal);
    } catch (error) {
      if (error.name === "AbortError" || error.wait === null || attempt === MAX_TRIES) throw error;
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

function addToCache(id, blob) {
  if (cache.has(id)) {
    cache.delete(id); // moved to the newest end
  } else {
    cacheBytes += blob.size;
  }
  cache.set(id, blob);
  for (const [oldest, old] of cache) {
    if (cacheBytes <= MAX_CACHE_BYTES) break;
    cache.delete(oldest);
    cacheBytes -= old.size;
  }
}
