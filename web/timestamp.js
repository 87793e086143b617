/** Numbers above this are milliseconds since 1970, below it seconds: as seconds it would be the year 5138. */
const SECONDS_LIMIT = 1e11;

/** A server timestamp in milliseconds, whether it is ISO 8601, seconds or milliseconds since 1970. */
export function toMs(stamp) {
  if (typeof stamp !== "number") return Date.parse(stamp);
  return stamp > SECONDS_LIMIT ? stamp : stamp * 1000;
}
