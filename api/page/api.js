// Asking the service: the key, errors in its own words, and the routes that the page uses.

const HELD = "onepass.key";
const UNREACHABLE = "the server cannot be reached; see whether it runs, then try again";

let prompt = null; // shows the dialog; gives a key, or null when it was put away
let tell = () => {}; // called when a key was given or forgotten
let asking = null; // the dialog that is open now: everything that needs a key waits for one
let declined = false;

export class Failure extends Error {
  constructor(message, { status = 0, code = "", retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { status, code, retryAfter });
  }

  // Worth another try as it is, by a person; `wait` says after how many seconds by itself.
  get again() {
    return this.status === 0 || this.status === 401 || this.status === 429 || this.status >= 500;
  }

  get wait() {
    if (this.status === 429) return this.retryAfter ?? 1;
    return this.code === "not_ready" ? (this.retryAfter ?? 2) : null;
  }
}

export function promptWith(show, changed) {
  prompt = show;
  tell = changed;
}

export const hasKey = () => sessionStorage.getItem(HELD) !== null;

export async function changeKey(why) {
  asking ??= prompt(why).finally(() => {
    asking = null;
  });
  const given = await asking;
  declined = given === null;
  if (given === "") sessionStorage.removeItem(HELD);
  else if (given !== null) sessionStorage.setItem(HELD, given);
  tell();
  return given !== null;
}

export function askAgainForKey() {
  declined = false;
}

async function request(path, { signal, json, form } = {}) {
  const options = { signal, headers: {}, method: json || form ? "POST" : "GET" };
  if (json) {
    options.headers["content-type"] = "application/json";
    options.body = JSON.stringify(json);
  }
  if (form) options.body = form;
  for (;;) {
    const key = sessionStorage.getItem(HELD);
    if (key !== null) options.headers["x-api-key"] = key;
    else delete options.headers["x-api-key"];
    let response;
    try {
      response = await fetch(path, options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Failure(UNREACHABLE);
    }
    if (response.ok) return response;
    const failure = await failureOf(response);
    if (failure.status !== 401 || declined) throw failure;
    const another = sessionStorage.getItem(HELD) !== key; // given while this was on its way
    if (!another && !(await changeKey(failure.message))) throw failure;
    signal?.throwIfAborted();
  }
}

async function failureOf(response) {
  const seconds = Number.parseInt(response.headers.get("retry-after") ?? "", 10);
  const facts = { status: response.status, retryAfter: Number.isNaN(seconds) ? null : seconds };
  try {
    const { code, message } = (await response.json()).error;
    return new Failure(message, { ...facts, code });
  } catch {
    return new Failure(`the server answered ${response.status} and did not say why`, facts);
  }
}

const json = async (path, options) => (await request(path, options)).json();
const one = (id) => `v1/detections/${encodeURIComponent(id)}`;

function query(params) {
  const kept = Object.entries(params).filter(([, value]) => value !== null);
  return new URLSearchParams(kept).toString();
}

export const getIndex = (signal) => json("v1/index", { signal });
export const getFacets = (column, limit, signal) =>
  json(`v1/index/facets?${query({ column, limit })}`, { signal });
export const getPage = (where, limit, offset, signal) =>
  json(`v1/detections?${query({ where, limit, offset })}`, { signal });
export const getDetection = (id, signal) => json(one(id), { signal });
export const getTrack = (id, signal) => json(`${one(id)}/track`, { signal });
export const getCrop = async (id, signal) => (await request(`${one(id)}/image`, { signal })).blob();

export function searchById(id, { k, exact, where }, signal) {
  const asked = { detection_id: id, k, exact };
  if (where !== null) asked.where = where;
  return json("v1/search", { json: asked, signal });
}

export function searchByImage(file, { k, exact, where }, signal) {
  const form = new FormData();
  form.set("image", file, file.name || "picture");
  form.set("k", k);
  form.set("exact", exact);
  if (where !== null) form.set("where", where);
  return json("v1/search/image", { form, signal });
}
