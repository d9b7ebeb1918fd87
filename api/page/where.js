// The filter's controls as a condition over the columns of an index, and as part of a URL.

export const FIELDS = ["label", "sequence", "score", "from", "to", "column", "value", "where"];

export const quote = (text) => `'${text.replaceAll("'", "''")}'`;
const nameInSql = (name) => (/^[a-z_]+$/.test(name) ? name : `"${name.replaceAll('"', '""')}"`);

// `filters` holds strings, as a URL does; an empty one filters nothing. Null: no filter.
export function whereOf(filters) {
  const parts = [];
  if (filters.label) parts.push(`label = ${quote(filters.label)}`);
  if (filters.sequence) parts.push(`sequence = ${quote(filters.sequence)}`);
  const minScore = Number(filters.score);
  if (filters.score && Number.isFinite(minScore)) parts.push(`score >= ${minScore}`);
  if (filters.from) parts.push(`timestamp >= ${quote(filters.from.replace("T", " "))}`);
  if (filters.to) parts.push(`timestamp <= ${quote(filters.to.replace("T", " "))}`);
  if (filters.column && filters.value) parts.push(`${nameInSql(filters.column)} = ${quote(filters.value)}`);
  const expression = filters.where?.trim();
  // On lines of its own, so that a comment in it cannot swallow the bracket.
  if (expression) parts.push(parts.length ? `(\n${expression}\n)` : expression);
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

export const filtersOf = (params) =>
  Object.fromEntries(FIELDS.map((name) => [name, params[name] ?? ""]));

export const detectionHash = (id) => `#/d/${encodeURIComponent(id)}`;
