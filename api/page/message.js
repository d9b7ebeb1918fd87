// A failure shown in the server's own words, with another try where that makes sense.

import { askAgainForKey } from "./api.js";
import { el } from "./dom.js";
import { pause } from "./pictures.js";

export function failed(error, again, signal) {
  const box = el("div", { class: "message", role: "alert" }, el("p", {}, error.message));
  if (!error.again) return box;
  const name = error.status === 401 ? "Give a key" : "Try again";
  const retry = () => {
    askAgainForKey();
    again();
  };
  box.append(el("button", { type: "button", onclick: retry }, name));
  if (error.wait !== null) {
    box.append(el("span", { class: "hint" }, `trying again in ${error.wait} s`));
    pause(error.wait, signal).then(() => box.isConnected && again(), () => {});
  }
  return box;
}

// Run `work`; when it fails the reason stands in `place`. What was stopped says nothing.
export async function guarded(work, { place, signal }) {
  try {
    await work();
  } catch (error) {
    if (error.name === "AbortError" || signal.aborted) return;
    if (error.again === undefined) throw error; // a mistake of this page, for the console
    place.replaceChildren(failed(error, () => guarded(work, { place, signal }), signal));
  }
}
