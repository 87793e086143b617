/** Draws everything around the stage: sign-in, people, the two ringing screens, the call's frame, notices. */
import { asksConsent, clock, isGroup, listNames, nameOf, recordingWords } from "./call-words.js";
import { avatar, byTest, element, reconcile } from "./dom.js";
import { icon, setIcon } from "./icons.js";

const NOTICE_MS = 6_000;
/** More people than this are found by search in a real product; the list stays quick. */
const MAX_LISTED = 300;
/** More faces than this do not fit beside each other on a phone. */
const MAX_FACES = 4;
/** Participants in these states may be invited again. */
const INVITABLE = new Set(["left", "rejected", "missed", "busy"]);

const byId = (id) => document.getElementById(id);
let noticeTimer = null;

/** Say something briefly; the text stays in the page for whoever reads it later. */
export function showNotice({ text, detail = "" }) {
  const box = byId("notice");
  byTest("notice").textContent = text;
  byId("notice-detail").textContent = detail;
  box.classList.add("shown");
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => box.classList.remove("shown"), NOTICE_MS);
}

/** Show one screen. `view` also counts a dialog above it, `base` is the screen below. */
export function showScreen(base, view) {
  document.body.dataset.view = view;
  document.body.dataset.base = base;
  for (const screen of document.querySelectorAll("[data-screen]")) screen.hidden = screen.dataset.screen !== base;
}

export function drawMe(me) {
  const name = element("span", { textContent: me.name });
  byId("me").replaceChildren(avatar(me.name, me.user_id), name, element("span", { className: "tag", textContent: "you" }));
}

/** The people online, each with call buttons; `actions` are call(person, type) and select(person, on). */
export function drawPeople(people, selected, elsewhere, actions) {
  const listed = people.slice(0, MAX_LISTED);
  reconcile(byTest("people"), listed, {
    key: ({ user_id }) => user_id,
    create: (person) => personRow(person, actions),
    update: (row, person) => {
      row.querySelector(".person-name").textContent = nameOf(person);
      row.querySelector("input").checked = selected.has(person.user_id);
    },
  });
  byId("nobody").hidden = people.length > 0;
  byId("selection").hidden = selected.size === 0;
  byId("selection-count").textContent = `${selected.size} selected`;
  byId("rejoin").hidden = !elsewhere;
}

function personRow(person, actions) {
  const name = nameOf(person);
  const id = person.user_id;
  const box = element("input", { type: "checkbox", "data-testid": `select-${id}`, "aria-label": `Select ${name}` });
  box.addEventListener("change", () => actions.select(person, box.checked));
  const button = (type, symbol, label) => {
    const made = iconButton(`call-${type}-${id}`, label, symbol);
    made.addEventListener("click", () => actions.call(person, type));
    return made;
  };
  return element("li", { className: "person" },
    element("label", { className: "person-main" }, box, avatar(name, id), element("span", { className: "person-name" })),
    button("voice", "phone", `Voice call with ${name}`), button("video", "video", `Video call with ${name}`));
}

function iconButton(testId, label, symbol) {
  const properties = { className: "icon-button", type: "button", title: label, "aria-label": label };
  return element("button", { ...properties, "data-testid": testId }, icon(symbol));
}

export function drawOutgoing(call, people, previewTrack) {
  reconcile(byId("outgoing-faces"), people.slice(0, MAX_FACES), {
    key: ({ user_id }) => user_id,
    create: (person) => avatar(nameOf(person), person.user_id),
  });
  byId("outgoing-names").textContent = listNames(people);
  byId("outgoing-status").textContent = people.some(({ state }) => state === "ringing") ? "Ringing…" : "Calling…";
  show(byId("preview"), call.call_type === "video" ? previewTrack : null);
}

/** Put a track on a <video> element, or take it off. */
function show(video, track) {
  if ((video.srcObject?.getTracks()[0] ?? null) !== track) video.srcObject = track && new MediaStream([track]);
  video.toggleAttribute("data-live", Boolean(track));
}

/** Open or close the dialog of the oldest ringing call; a modal dialog holds focus by itself. */
export function drawIncoming(call) {
  const dialog = byTest("incoming");
  if (!call) {
    if (dialog.open) dialog.close();
    return;
  }
  const from = call.initiator_name || call.initiator;
  const count = call.participants.length;
  byTest("incoming-from").textContent = from;
  byId("incoming-face").replaceChildren(avatar(from, call.initiator));
  const kind = call.call_type === "video" ? "Video call" : "Voice call";
  byId("incoming-kind").textContent = isGroup(call) ? `${kind} with ${count} people` : kind;
  setIcon(byTest("answer"), call.call_type === "video" ? "video" : "phone");
  if (!dialog.open) dialog.showModal();
}

/** The frame around the stage: title, buttons in their present state, who may be invited. */
export function drawCall({ call, others, session, me, peopleOnline, panelOpen, invite }) {
  const group = isGroup(call);
  byId("call-title").textContent = listNames(others.filter(({ state }) => !INVITABLE.has(state))) || "Call";
  drawControls(call, session, group, me);
  drawInvites(call, peopleOnline, panelOpen, invite);
  const remote = session ? session.room.participants.size - (session.participantId ? 1 : 0) : 0;
  byId("waiting").textContent = waitingText(session, remote);
  drawRecording(call.recording, me);
}

/** That the call is recorded, and the question to whom it is put. */
function drawRecording(recording, me) {
  const words = recordingWords(recording);
  const note = byId("recording");
  note.hidden = !words;
  note.dataset.paused = String(recording?.state === "paused");
  if (note.textContent !== words) note.textContent = words;
  byTest("consent").hidden = !asksConsent(recording, me.user_id);
}

function waitingText(session, remote) {
  if (remote > 0 || session?.state === "reconnecting") return "";
  return session?.state === "connected" ? "Waiting for the others…" : "Connecting…";
}

function drawControls(call, session, group, me) {
  const video = call.call_type === "video";
  const { microphone = false, camera = false } = session?.desired ?? {};
  toggle(byTest("mute"), microphone, microphone ? "mic" : "micOff", microphone ? "Turn microphone off" : "Turn microphone on");
  const cameraWords = camera ? "Turn camera off" : "Turn camera on";
  toggle(byTest("camera"), camera, camera ? "video" : "videoOff", video ? cameraWords : "Make this a video call");
  const sharing = Boolean(session?.sharing);
  byTest("screen").hidden = !video || !navigator.mediaDevices?.getDisplayMedia;
  toggle(byTest("screen"), !sharing, "screen", sharing ? "Stop sharing your screen" : "Share your screen");
  byTest("screen").toggleAttribute("data-active", sharing);
  byTest("leave").hidden = !group;
  byTest("hangup").hidden = group && call.initiator !== me.user_id;
  const ending = group ? "End for all" : "Hang up";
  byTest("hangup").setAttribute("aria-label", ending);
  byTest("hangup").title = ending;
  setIcon(byTest("hangup"), "hangup");
}

function toggle(button, on, symbol, label) {
  button.toggleAttribute("data-off", !on);
  button.setAttribute("aria-label", label);
  button.title = label;
  setIcon(button, symbol);
}

function drawInvites(call, peopleOnline, panelOpen, invite) {
  const inside = new Set(call.participants.filter(({ state }) => !INVITABLE.has(state)).map(({ user_id }) => user_id));
  const free = peopleOnline.filter(({ user_id }) => !inside.has(user_id)).slice(0, MAX_LISTED);
  byTest("invite-toggle").hidden = free.length === 0;
  byTest("invite-toggle").setAttribute("aria-expanded", String(panelOpen));
  byId("invite-panel").hidden = !panelOpen || free.length === 0;
  reconcile(byId("invite-list"), free, { key: ({ user_id }) => user_id, create: (person) => inviteRow(person, invite) });
}

function inviteRow(person, invite) {
  const name = nameOf(person);
  const button = iconButton(`invite-${person.user_id}`, `Invite ${name}`, "plus");
  button.addEventListener("click", () => invite(person, button));
  const label = element("span", { className: "person-name", textContent: name });
  return element("li", { className: "person" }, avatar(name, person.user_id), label, button);
}

export function drawTimer(seconds) {
  byTest("timer").textContent = seconds === null ? "" : clock(seconds);
}

export function drawReconnecting(shown) {
  byTest("reconnecting").hidden = !shown;
}

export function drawSoundButton(shown) {
  byId("turn-on-sound").hidden = !shown;
}

export function drawSignInError(text) {
  byId("signin-error").textContent = text;
}
