// A failure shown in the server's words, with a retry where that makes sense.

import { resetDeclined } from "./api.js";
import { el } from "./dom.js";
import { pause } from "./pictures.js";

export function failed(error, retry, signal) {
  const box = el("div", { class: "message", role: "alert" }, el("p", {}, error.message));
  if (!error.retryable) return box;
  const name = error.status === 401 ? "Give a key" : "Try again";
  const onclick = () => {
    resetDeclined();
    retry();
  };
  box.append(el("button", { type: "button", onclick }, name));
  if (error.wait !== null) {
    box.append(el("span", { class: "hint" }, `trying again in ${error.wait} s`));
    pause(error.wait, signal).then(() => box.isConnected && retry(), () => {});
  }
  return box;
}

// Run `work`; a failure is shown in `target`, unless the work was aborted.
export async function showingErrors(work, { target, signal }) {
  try {
    await work();
  } catch (error) {
    if (error.name === "AbortError" || signal.aborted) return;
    if (error.retryable === undefined) throw error; // a bug of this page, for the console
    target.replaceChildren(failed(error, () => showingErrors(work, { target, signal }), signal));
  }
}
