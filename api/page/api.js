// Requests to the service: the API key, errors, and the routes that the page uses.

const STORAGE_KEY = "onepass.key";
const UNREACHABLE = "the server cannot be reached; see whether it runs, then try again";

let prompt = null; // shows the dialog; resolves to a key, or null when it was cancelled
let onKeyChange = () => {}; // called when the key was set or removed
let openDialog = null; // the promise of the open dialog, which all requests without a key share
let declined = false;

export class Failure extends Error {
  constructor(message, { status = 0, code = "", retryAfter = null } = {}) {
    super(message);
    Object.assign(this, { status, code, retryAfter });
  }

  // Whether the same request may succeed later; `wait`: seconds after which the page retries it.
  get retryable() {
    return this.status === 0 || this.status === 401 || this.status === 429 || this.status >= 500;
  }

  get wait() {
    if (this.status === 429) return this.retryAfter ?? 1;
    return this.code === "not_ready" ? (this.retryAfter ?? 2) : null;
  }
}

export function promptWith(show, changed) {
  prompt = show;
  onKeyChange = changed;
}

export const hasKey = () => sessionStorage.getItem(STORAGE_KEY) !== null;

export async function changeKey(why) {
  openDialog ??= prompt(why).finally(() => {
    openDialog = null;
  });
  const key = await openDialog;
  declined = key === null;
  if (key === "") sessionStorage.removeItem(STORAGE_KEY);
  else if (key !== null) sessionStorage.setItem(STORAGE_KEY, key);
  onKeyChange();
  return key !== null;
}

export function resetDeclined() {
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
    const key = sessionStorage.getItem(STORAGE_KEY);
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
    const changed = sessionStorage.getItem(STORAGE_KEY) !== key; // while this request was under way
    if (!changed && !(await changeKey(failure.message))) throw failure;
    signal?.throwIfAborted();
  }
}

async function failureOf(response) {
  const seconds = Number.parseInt(response.headers.get("retry-after") ?? "", 10);
  const fields = { status: response.status, retryAfter: Number.isNaN(seconds) ? null : seconds };
  try {
    const { code, message } = (await response.json()).error;
    return new Failure(message, { ...fields, code });
  } catch {
    return new Failure(`the server answered ${response.status} and did not say why`, fields);
  }
}

const json = async (path, options) => (await request(path, options)).json();
const detectionUrl = (id) => `v1/detections/${encodeURIComponent(id)}`;

const given = (params) =>
  Object.fromEntries(Object.entries(params).filter(([, value]) => value !== null));
const query = (params) => new URLSearchParams(given(params)).toString();

export const getIndex = (signal) => json("v1/index", { signal });
export const getFacets = (column, limit, signal) =>
  json(`v1/index/facets?${query({ column, limit })}`, { signal });
export const getPage = (params, signal) => json(`v1/detections?${query(params)}`, { signal });
export const getDetection = (id, signal) => json(detectionUrl(id), { signal });
export const getTrack = (id, signal) => json(`${detectionUrl(id)}/track`, { signal });
export const getCrop = async (id, signal) => (await request(`${detectionUrl(id)}/image`, { signal })).blob();

// `query`: {detection_id}, or {positive, negative}: lists of ids.
export const search = (query, options, signal) =>
  json("v1/search", { json: { ...query, ...given(options) }, signal });

export function searchByImage(file, options, signal) {
  const form = new FormData();
  form.set("image", file, file.name || "picture");
  for (const [name, value] of Object.entries(given(options))) form.set(name, value);
  return json("v1/search/image", { form, signal });
}
