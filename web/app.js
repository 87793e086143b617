/** The page: signs in, follows calls and people, and draws what they say. One `draw()` from state, no hidden steps. */
import { Calls } from "./calls.js";
import { byTest } from "./dom.js";
import { drawIcons } from "./icons.js";
import { People } from "./people.js";
import { Ring } from "./ring.js";
import * as screens from "./screens.js";
import { SfuClient } from "./sfu-client.js";
import { Sound } from "./sound.js";
import { TabMemory } from "./tab-memory.js";
import { Tiles } from "./tiles.js";

const WIDE_ENOUGH_FOR_PANEL = matchMedia("(min-width: 1000px)");

const identity = new TabMemory("sfu.identity");
const callMemory = new TabMemory("sfu.call");
const ring = new Ring();
const tiles = new Tiles(byTest("stage"));
const sound = new Sound(document.getElementById("audio"), screens.drawSoundButton);

let client = null;
let calls = null;
let people = null;
let me = null;
let panelOpen = WIDE_ENOUGH_FOR_PANEL.matches;
/** Chosen for a call together: user_id → person. */
const selected = new Map();

window.sfuDebug = {
  get client() {
    return client;
  },
  session: () => calls?.session ?? null,
  pc: () => calls?.session?.pc ?? null,
  ringLevel: () => ring.level(),
};

/** Ask the development server for a token; the answer also says who I am. */
async function fetchIdentity(name) {
  const headers = { "Content-Type": "application/json" };
  const response = await fetch("/dev/token", { method: "POST", headers, body: JSON.stringify({ name }) });
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    const error = new Error(problem.detail || problem.title || "The server did not let you in. Try again in a moment.");
    error.refused = response.status < 500;
    throw error;
  }
  return response.json();
}

async function signIn(name) {
  screens.drawSignInError("");
  try {
    const first = await fetchIdentity(name);
    me = { user_id: first.user_id, name: first.name };
    identity.update({ name });
    start(first.token);
  } catch (error) {
    if (error.refused) identity.clear();
    const unreachable = "The server cannot be reached. Check your network and try again.";
    screens.drawSignInError(error instanceof TypeError ? unreachable : error.message);
  }
}

function start(firstToken) {
  let token = firstToken;
  // The first token is at hand; each reconnect gets a new one, since tokens are short-lived.
  const freshToken = async () => {
    const used = token ?? (await fetchIdentity(me.name)).token;
    token = null;
    return used;
  };
  client = new SfuClient({ url: "/ws", token: freshToken });
  people = new People(client, me.user_id);
  calls = new Calls(client, me.user_id, callMemory);
  for (const source of [people, calls]) {
    source.on("change", draw);
    source.on("notice", screens.showNotice);
  }
  calls.on("session", followSession);
  client.on("state", connectionChanged);
  screens.drawMe(me);
  client.connect().catch((error) => screens.drawSignInError(error.message));
  draw();
}

function connectionChanged({ state, code }) {
  if (state === "closed") {
    signOut();
    if (code === 4409) screens.showNotice({ text: "You signed in somewhere else" });
    else if (code !== 1000) screens.showNotice({ text: "The server ended your session. Sign in again." });
    return;
  }
  draw();
}

function signOut() {
  const old = client;
  client = null;
  me = null;
  identity.clear();
  callMemory.clear();
  selected.clear();
  ring.stop();
  sound.silence();
  tiles.show(null, null);
  calls = null;
  people = null;
  old?.close();
  draw();
}

function followSession(session) {
  tiles.show(session, me);
  const changed = () => {
    sound.follow(session.slots);
    tiles.render();
    draw();
  };
  for (const type of ["change", "local", "state"]) session.on(type, changed);
  session.on("device", (errors) => screens.showNotice({ text: errors.map(({ message }) => message).join(" ") }));
  draw();
}

/** Everything that is on screen follows from here. */
function draw() {
  const current = calls?.current ?? null;
  const [incoming] = calls?.incoming.values() ?? [];
  const base = me ? (current?.phase ?? "people") : "signin";
  screens.showScreen(base, incoming ? "incoming" : base);
  screens.drawIncoming(incoming);
  drawRing(current, incoming);
  screens.drawReconnecting(Boolean(me) && troubled());
  document.title = incoming ? `${incoming.initiator_name || incoming.initiator} is calling…` : "Calls";
  if (!calls) return;
  if (!calls.session) endStage();
  drawBase(base, current);
}

function drawBase(base, current) {
  const online = people.list;
  for (const id of [...selected.keys()]) if (!online.some(({ user_id }) => user_id === id)) selected.delete(id);
  if (base === "people") screens.drawPeople(online, selected, calls.elsewhere, { call: callOne, select });
  if (base === "outgoing") screens.drawOutgoing(current.call, calls.others, calls.session?.local.track("camera") ?? null);
  if (base === "call") {
    const { session, others } = calls;
    screens.drawCall({ call: current.call, others, session, me, peopleOnline: online, panelOpen, invite });
    screens.drawTimer(calls.elapsedS);
  }
}

function troubled() {
  return client?.state === "reconnecting" || calls?.session?.state === "reconnecting";
}

function drawRing(current, incoming) {
  const quietIncoming = incoming && !current ? "incoming" : null;
  const kind = current?.phase === "outgoing" ? "outgoing" : quietIncoming;
  document.body.dataset.ringing = String(Boolean(kind ?? incoming));
  // A second caller must not drown the talk: the dialog shows, and a soft tone plays.
  const wanted = kind ?? (incoming ? "outgoing" : null);
  if (wanted) ring.start(wanted);
  else ring.stop();
}

function endStage() {
  sound.silence();
  tiles.show(null, null);
}

function callOne(person, type) {
  calls.place([person], type);
}

function select(person, on) {
  if (on) selected.set(person.user_id, person);
  else selected.delete(person.user_id);
  draw();
}

async function invite(person, button) {
  button.disabled = true;
  await attempt(() => calls.invite(person.user_id));
  button.disabled = false;
}

/** Run what a button asks for; a failure becomes words on the page. */
async function attempt(action) {
  try {
    await action();
  } catch (error) {
    // Microphone and camera report for themselves, also when no button asked for them.
    if (error.name === "DeviceError" && error.source !== "screen") return;
    const inWords = error.name === "SfuError" || error.name === "DeviceError";
    screens.showNotice({ text: inWords ? error.message : "That did not work. Try again." });
  }
}

function toggleDevice(source) {
  const { session } = calls;
  if (!session) return undefined;
  const on = !session.desired[source];
  calls.rememberDevice(source, on);
  return source === "microphone" ? session.setMicrophone(on) : session.setCamera(on);
}

const ACTIONS = {
  answer: () => calls.answer(),
  decline: () => calls.decline(),
  cancel: () => calls.cancel(),
  hangup: () => calls.end(),
  leave: () => calls.leave(),
  rejoin: () => calls.takeOver(),
  mute: () => toggleDevice("microphone"),
  camera: () => (calls.current.call.call_type === "video" ? toggleDevice("camera") : calls.upgrade()),
  screen: () => (calls.session?.sharing ? calls.session.stopScreen() : calls.session?.startScreen()),
  sound: () => sound.unblock(),
  "consent-yes": () => calls.consent(true),
  "consent-no": () => calls.consent(false),
  "invite-toggle": () => setPanel(!panelOpen),
  "call-selected": () => {
    const chosen = [...selected.values()];
    selected.clear();
    return calls.place(chosen, "video");
  },
};

function setPanel(open) {
  panelOpen = open;
  draw();
}

function bindControls() {
  for (const [name, action] of Object.entries(ACTIONS)) {
    byTest(name).addEventListener("click", () => attempt(async () => action()));
  }
  document.getElementById("invite-close").addEventListener("click", () => setPanel(false));
  document.getElementById("sign-out").addEventListener("click", signOut);
  document.getElementById("clear-selection").addEventListener("click", () => {
    selected.clear();
    draw();
  });
  document.getElementById("signin-form").addEventListener("submit", (event) => {
    event.preventDefault();
    ring.unlock();
    signIn(byTest("name").value.trim());
  });
  // Escape must not close the dialog while it still rings: only an answer or a refusal does.
  byTest("incoming").addEventListener("cancel", (event) => event.preventDefault());
  addEventListener("pointerdown", () => ring.unlock(), { once: true });
  addEventListener("keydown", () => ring.unlock(), { once: true });
  setInterval(() => screens.drawTimer(calls?.elapsedS ?? null), 500);
}

drawIcons(document);
bindControls();
const { name: rememberedName } = identity.read();
if (rememberedName) signIn(rememberedName);
