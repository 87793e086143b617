/** Draws calls: the window of the call, the dialog of one that comes in, and what the pages show of both. */
import { avatar, clock, drawIcons, listNames, setIcon } from "./sfu.js";

const NOTICE_MS = 6_000;
const byId = (id) => document.getElementById(id);
const title = document.title;
let noticeTimer = null;

/** Say something briefly. */
export function showNotice({ text, detail = "" }) {
  const notice = byId("notice");
  notice.textContent = detail ? `${text} · ${detail}` : text;
  notice.classList.add("shown");
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => notice.classList.remove("shown"), NOTICE_MS);
}

/** Coloured by the name: keys of a database are too much alike to give colours that differ. */
function face(name) {
  return avatar(name, name);
}

export function drawFaces() {
  for (const place of document.querySelectorAll("[data-face]")) {
    place.replaceChildren(face(place.dataset.face));
  }
}

/** The window of the call that goes on; `current` is null when there is none. */
export function drawCall(current, others, session) {
  document.body.toggleAttribute("data-in-call", Boolean(current));
  byId("call-window").hidden = !current;
  if (!current) return;
  byId("call-title").textContent = listNames(others);
  byId("call-status").textContent = statusOf(current, others, session);
  const { microphone = false, camera = false } = session?.desired ?? {};
  toggle("microphone", microphone, ["mic", "micOff"]);
  toggle("camera", camera, ["video", "videoOff"]);
}

function statusOf({ phase }, others, session) {
  if (phase === "outgoing") return others.some(({ state }) => state === "ringing") ? "Ringing…" : "Calling…";
  const state = session?.state ?? "connecting";
  if (state === "connected") return session.room.participants.size > 1 ? "" : "Waiting for the others…";
  return state === "reconnecting" ? "Reconnecting…" : "Connecting…";
}

function toggle(source, on, [shown, crossed]) {
  const button = document.querySelector(`[data-act="${source}"]`);
  const label = `Turn ${source} ${on ? "off" : "on"}`;
  button.toggleAttribute("data-off", !on);
  button.setAttribute("aria-label", label);
  button.title = label;
  setIcon(button, on ? shown : crossed);
}

/** The dialog of the oldest call that rings; `onClose` is told when the user closes it. */
export function drawIncoming(call, onClose) {
  const dialog = byId("incoming");
  dialog.onclose = onClose;
  document.title = call ? `${callerOf(call)} is calling…` : title;
  if (!call) {
    if (dialog.open) dialog.close();
    return;
  }
  byId("incoming-from").textContent = callerOf(call);
  byId("incoming-face").replaceChildren(face(callerOf(call)));
  byId("incoming-kind").textContent = call.call_type === "video" ? "Video call" : "Voice call";
  setIcon(document.querySelector('[data-act="answer"]'), call.call_type === "video" ? "video" : "phone");
  drawIcons(dialog);
  if (dialog.open) return;
  dialog.showModal();
  dialog.focus(); // on neither button: whoever is typing must not answer or decline by it
}

function callerOf({ initiator, initiator_name }) {
  return initiator_name || initiator;
}

/** What the pages themselves show: who is online, who may be called now, that no call goes on. */
export function drawPage({ ready, busy, elsewhere, isOnline }) {
  for (const row of document.querySelectorAll("[data-person]")) {
    const online = isOnline(row.dataset.person);
    row.toggleAttribute("data-online", online);
    row.querySelector("[data-presence]").textContent = online ? "Online" : "Offline";
    for (const button of row.querySelectorAll("[data-call]")) button.disabled = !ready || busy;
  }
  byId("elsewhere").hidden = !elsewhere || busy;
  if (byId("no-call")) byId("no-call").hidden = !ready || busy;
}

export function drawConnection({ reconnecting, refused }) {
  document.body.toggleAttribute("data-reconnecting", reconnecting);
  if (refused) showNotice({ text: "The calls server does not let you in. Load the page again." });
}

export function drawTimer(seconds) {
  byId("call-timer").textContent = seconds === null ? "" : clock(seconds);
}

export function drawSoundButton(shown) {
  byId("sound").hidden = !shown;
}
