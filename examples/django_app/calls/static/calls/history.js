/** The list of past calls: times in the reader's own zone, and what ends while one looks at it. */
import { drawIcons } from "./sfu.js";

/** The webhook reaches the site a little later than the socket reaches the page. */
const LOOK_AGAIN_MS = [300, 1_000, 3_000, 8_000];
const TIME = { dateStyle: "medium", timeStyle: "short" };

const list = () => document.getElementById("history");

export function localTimes() {
  for (const time of list()?.querySelectorAll("time") ?? []) {
    time.textContent = new Date(time.dateTime).toLocaleString(undefined, TIME);
  }
}

/** Show a call that has ended as soon as the site knows it. */
export async function follow(callId) {
  if (!list()) return;
  for (const wait of LOOK_AGAIN_MS) {
    await new Promise((resolve) => setTimeout(resolve, wait));
    const fresh = await load().catch(() => null);
    if (!fresh) continue;
    list().replaceWith(fresh);
    drawIcons(fresh);
    localTimes();
    if (fresh.querySelector(`[data-call-id="${CSS.escape(callId)}"][data-state="ended"]`)) return;
  }
}

async function load() {
  const response = await fetch(location.href);
  if (!response.ok || response.redirected) return null;
  return new DOMParser().parseFromString(await response.text(), "text/html").getElementById("history");
}
