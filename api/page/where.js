// The filter's controls as a condition over the columns of an index, and as part of a URL.

export const FIELDS = ["label", "sequence", "score", "from", "to", "where"];

export const quote = (text) => `'${text.replaceAll("'", "''")}'`;

// `given` holds strings, as a URL does; what is empty asks for nothing. Null: everything fits.
export function whereOf(given) {
  const parts = [];
  if (given.label) parts.push(`label = ${quote(given.label)}`);
  if (given.sequence) parts.push(`sequence = ${quote(given.sequence)}`);
  const least = Number(given.score);
  if (given.score && Number.isFinite(least)) parts.push(`score >= ${least}`);
  if (given.from) parts.push(`timestamp >= ${quote(given.from.replace("T", " "))}`);
  if (given.to) parts.push(`timestamp <= ${quote(given.to.replace("T", " "))}`);
  const expert = given.where?.trim();
  // On lines of its own, so that a comment in it cannot swallow the bracket.
  if (expert) parts.push(parts.length ? `(\n${expert}\n)` : expert);
  return parts.length ? parts.join(" AND ") : null;
}

export function hashOf(path, params) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(params)) {
    if (value !== "" && value !== null && value !== undefined) query.set(name, value);
  }
  const text = query.toString();
  return `#/${path}${text ? `?${text}` : ""}`;
}

export const chosenOf = (params) =>
  Object.fromEntries(FIELDS.map((name) => [name, params[name] ?? ""]));

export const detectionHash = (id) => `#/d/${encodeURIComponent(id)}`;
