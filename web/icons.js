/** Line icons on a 24 × 24 grid, drawn with the current text colour. */
const PATHS = {
  mic: ["M12 3a3 3 0 0 0-3 3v6a3 3 0 0 0 6 0V6a3 3 0 0 0-3-3Z", "M5 11a7 7 0 0 0 14 0", "M12 18v3"],
  micOff: ["M9 9v3a3 3 0 0 0 4.6 2.5", "M15 11V6a3 3 0 0 0-5.8-1.1", "M5 11a7 7 0 0 0 10.9 5.8", "M19 11a7 7 0 0 1-.5 2.6", "M12 18v3", "M4 4l16 16"],
  video: ["M4 7h9a2 2 0 0 1 2 2v6a2 2 0 0 1-2 2H4a2 2 0 0 1-2-2V9a2 2 0 0 1 2-2Z", "M15 11l6-4v10l-6-4"],
  videoOff: ["M9.5 7H13a2 2 0 0 1 2 2v2l6-4v10l-3-2", "M14.8 15.6A2 2 0 0 1 13 17H4a2 2 0 0 1-2-2V9a2 2 0 0 1 2-2h1", "M3 3l18 18"],
  screen: ["M4 4h16a1 1 0 0 1 1 1v10a1 1 0 0 1-1 1H4a1 1 0 0 1-1-1V5a1 1 0 0 1 1-1Z", "M8 20h8", "M12 13V7.5", "M9.5 10 12 7.5 14.5 10"],
  phone: ["M6.6 3.5 9 4.3l1 4-2.2 1.6a13 13 0 0 0 6.3 6.3l1.6-2.2 4 1 .8 2.4a2 2 0 0 1-2 2.6A15.6 15.6 0 0 1 4 5.5a2 2 0 0 1 2.6-2Z"],
  leave: ["M10 4H5a1 1 0 0 0-1 1v14a1 1 0 0 0 1 1h5", "M14 8l4 4-4 4", "M18 12H9"],
  invite: ["M10 11a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7Z", "M3.5 20a6.5 6.5 0 0 1 12-3.5", "M19 13v6", "M16 16h6"],
  sound: ["M4 9.5v5h3.5L12 18.5v-13L7.5 9.5Z", "M15.5 9a4 4 0 0 1 0 6", "M18 6.5a8 8 0 0 1 0 11"],
  weak: ["M4 19v-3", "M9 19v-6", "M14 19V9", "M19 19V5", "M3 4l18 17"],
  close: ["M6 6l12 12", "M18 6 6 18"],
  plus: ["M12 5v14", "M5 12h14"],
};
/** Icons that are another one, turned by so many degrees. */
const TURNED = { hangup: ["phone", 135] };
const SVG = "http://www.w3.org/2000/svg";

/** A fresh <svg> of an icon, hidden from screen readers: the button around it carries the label. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.classList.add("icon");
  const [shape, degrees] = TURNED[name] ?? [name, 0];
  for (const d of PATHS[shape]) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", d);
    path.setAttribute("transform", `rotate(${degrees} 12 12)`);
    svg.append(path);
  }
  return svg;
}

/** Put the icon of each `data-icon` into its element; called again it changes those whose name changed. */
export function drawIcons(root) {
  for (const place of root.querySelectorAll("[data-icon]")) setIcon(place, place.dataset.icon);
}

/** Show an icon as the first child of an element; drawing only on change keeps a press on it alive. */
export function setIcon(place, name) {
  if (place.dataset.drawn === name) return;
  place.querySelector(":scope > svg.icon")?.remove();
  place.prepend(icon(name));
  place.dataset.drawn = name;
}
