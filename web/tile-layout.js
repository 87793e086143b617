/** How tiles share the stage: pure arithmetic. */
const ASPECT = 16 / 9;

/** The column count that makes 16:9 pictures largest in `count` cells of a stage of width × height pixels. */
export function gridColumns(count, width, height) {
  let best = { columns: 1, size: 0 };
  for (let columns = 1; columns <= count; columns += 1) {
    const rows = Math.ceil(count / columns);
    const size = Math.min(width / columns, (height / rows) * ASPECT);
    if (size > best.size) best = { columns, size };
  }
  return best.columns;
}

/** Which arrangement fits: one big screen, two people (one large, myself small in a corner), or a grid. */
export function arrangement(tiles) {
  if (tiles.some(({ source }) => source === "screen")) return "share";
  if (tiles.length === 2 && tiles.some(({ self }) => self)) return "duo";
  return "grid";
}
