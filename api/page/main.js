// The page's frame: which view the URL asks for, keys that work everywhere, the API key.

import { changeKey, getIndex, hasKey, promptWith } from "./api.js";
import { browse } from "./browse.js";
import { detection } from "./detection.js";
import { count, el } from "./dom.js";
import { index } from "./index.js";
import { Pictures } from "./pictures.js";
import { search, startUpload } from "./search.js";

const VIEWS = { browse, search, detection, index };
const main = document.querySelector("#main");
const served = document.querySelector("#served");
const dialog = document.querySelector("#key-dialog");

let current = null; // {name, id, view, stop, pictures}
let shownVersion = null; // the version in the header
let loading = false;

function routeOf(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  const params = Object.fromEntries(new URLSearchParams(query));
  if (path === "") return { name: "browse", params };
  if (path === "search" || path === "index") return { name: path, params };
  if (path.startsWith("d/")) {
    try {
      return { name: "detection", id: decodeURIComponent(path.slice(2)), params };
    } catch {
      return null; // not percent-encoded
    }
  }
  return null;
}

function show(moved) {
  const route = routeOf(location.hash);
  if (moved && current && route && current.name === route.name && route.name !== "detection") {
    if (current.view.update(route.params) !== false) return;
  }
  current?.stop.abort();
  current?.pictures.dispose();
  const stop = new AbortController();
  const pictures = new Pictures();
  main.replaceChildren();
  for (const link of document.querySelectorAll("nav [data-view]")) {
    const here = link.dataset.view === route?.name && route.params.id === undefined;
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  current = { name: route?.name, stop, pictures, view: {} };
  if (route === null) {
    main.append(
      el("p", { class: "message", role: "alert" }, "This link leads nowhere. "),
      el("p", {}, el("a", { href: "#/" }, "Browse the detections")),
    );
    return;
  }
  current.view = VIEWS[route.name]({
    main, pictures, onSnapshot, title, close, signal: stop.signal, params: route.params, id: route.id,
  });
  if (!moved) return;
  window.scrollTo(0, 0);
  current.view.heading.focus({ preventScroll: true });
}

const title = (text) => {
  document.title = `${text} · onepass`;
};

// Most answers name their snapshot; when it has changed, the header is updated.
async function onSnapshot(name) {
  if (loading || (shownVersion !== null && (name ?? shownVersion) === shownVersion)) return;
  loading = true;
  try {
    const { version, rows, model, fingerprint } = await getIndex();
    shownVersion = version;
    served.textContent = `${version} · ${count(rows)} detections · ${model?.spec ?? fingerprint}`;
  } catch {
    // The view shows the error; the next answer tries again.
  } finally {
    loading = false;
  }
}

// Entries of this tab's history are numbered: closing goes back where there is an earlier one.
let position = history.state?.position ?? 0;
history.replaceState({ ...history.state, position }, "");

function close() {
  if (position > 0) history.back();
  else location.hash = "#/";
}

window.addEventListener("hashchange", () => {
  if (location.hash === "#main") return; // the link to skip to the content
  if (history.state?.position === undefined) history.replaceState({ position: position + 1 }, "");
  position = history.state.position;
  show(true);
});

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the hash is the view's
  main.focus();
});

document.addEventListener("keydown", (event) => {
  if (dialog.open || event.altKey || event.ctrlKey || event.metaKey) return;
  const typing = event.target.closest("input, textarea, select");
  if (event.key === "/" && !typing && current.view.focusFilter) {
    event.preventDefault();
    current.view.focusFilter();
  } else if (event.key === "Escape" && current.view.close) {
    close();
  }
});

// A picture from anywhere: pasted, or dropped on any part of the page.
document.addEventListener("paste", (event) => take(event.clipboardData, event));
document.addEventListener("drop", (event) => {
  document.body.classList.remove("dropping");
  take(event.dataTransfer, event);
});
document.addEventListener("dragover", (event) => {
  if (!event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) document.body.classList.remove("dropping");
});

function take(data, event) {
  const [file] = data?.files ?? [];
  if (!file) return; // text goes where it was going
  event.preventDefault();
  startUpload(file);
}

const keyButton = document.querySelector("#key");
const keyValue = document.querySelector("#key-value");

const showKeyState = () => {
  keyButton.textContent = hasKey() ? "API key set" : "API key";
};

promptWith((why) => {
  document.querySelector("#key-why").textContent = why;
  keyValue.value = "";
  dialog.returnValue = "cancel";
  dialog.showModal();
  return new Promise((resolve) => {
    const onClose = () => resolve(dialog.returnValue === "use" ? keyValue.value.trim() : null);
    dialog.addEventListener("close", onClose, { once: true });
  });
}, showKeyState);

keyButton.addEventListener("click", async () => {
  const why = hasKey()
    ? "Another key, or an empty one to forget the key of this tab."
    : "For a service that requires one.";
  if (await changeKey(why)) show(false);
});

showKeyState();
show(false);
onSnapshot();
