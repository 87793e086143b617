/**
 * Calls on every page: keeps the socket open, rings, and shows the call that goes on.
 *
 * A new page is a new script. So buttons on other pages leave word in this tab and go to the call's page, which places or
 * answers the call; and a call that goes on is taken over by each page that is opened in its tab.
 */
import * as history from "./history.js";
import { Presence } from "./presence.js";
import { Calls, drawIcons, Ring, SfuClient, Sound, TabMemory, Tiles } from "./sfu.js";
import * as view from "./view.js";

/** Word that is older than this was left for a page that never came: nobody wants that call any more. */
const FRESH_MS = 15_000;

const page = document.body.dataset;
const me = { user_id: page.userId, name: page.userName };
const callMemory = new TabMemory("calls.call");
const word = new TabMemory("calls.word");
const ring = new Ring();
const tiles = new Tiles(document.getElementById("stage"));
const sound = new Sound(document.getElementById("sounds"), view.drawSoundButton);
const client = new SfuClient({ url: new URL("/ws", page.sfu).href, token: fetchToken });
const calls = new Calls(client, me.user_id, callMemory);
const presence = new Presence(client);
/** Whether the server has said which calls there are. */
let ready = false;

async function fetchToken() {
  const response = await fetch(page.tokenUrl);
  if (response.status === 401) location.reload(); // the session is over: the page asks for the password
  if (!response.ok) throw new Error(`no token: ${response.status}`);
  return (await response.json()).token;
}

/** Do it here if this is the call's page, else there. */
function atCallPage(wish) {
  if (page.page === "call") return perform(wish);
  word.update({ ...wish, at: Date.now() });
  location.assign(page.callUrl);
  return undefined;
}

function performLeftWord() {
  const { at, ...wish } = word.read();
  word.clear();
  const fresh = Date.now() - at < FRESH_MS;
  if (page.page === "call" && fresh) perform(wish);
}

function perform({ act, person, callType, callId }) {
  if (act === "place") return calls.place([person], callType);
  const [first] = calls.incoming.keys();
  if (first === callId) return calls.answer();
  if (!calls.incoming.has(callId)) view.showNotice({ text: "This call is over" });
  return undefined;
}

function draw() {
  const { current, session } = calls;
  const [incoming] = calls.incoming.values();
  if (!session) {
    sound.silence();
    tiles.show(null, null);
  }
  view.drawCall(current, calls.others, session);
  view.drawTimer(calls.elapsedS);
  // Escape closes a dialog; a call that still rings comes back.
  view.drawIncoming(incoming, draw);
  view.drawPage({ ready, busy: Boolean(current), elsewhere: calls.elsewhere, isOnline: presence.isOnline });
  drawRing(current, incoming);
}

function drawRing(current, incoming) {
  const dialling = current?.phase === "outgoing" || (incoming && current);
  if (dialling) ring.start("outgoing");
  else if (incoming) ring.start("incoming");
  else ring.stop();
}

function follow(session) {
  tiles.show(session, me);
  const changed = () => {
    sound.follow(session.slots);
    tiles.render();
    draw();
  };
  for (const type of ["change", "local", "state"]) session.on(type, changed);
  session.on("device", (errors) => view.showNotice({ text: errors.map(({ message }) => message).join(" ") }));
  draw();
}

function toggle(source) {
  const { session } = calls;
  if (!session) return undefined;
  const on = !session.desired[source];
  calls.rememberDevice(source, on);
  return source === "microphone" ? session.setMicrophone(on) : session.setCamera(on);
}

const ACTS = {
  answer: () => atCallPage({ act: "answer", callId: calls.incoming.keys().next().value }),
  reject: () => calls.decline(),
  "hang-up": () => calls.hangUp(),
  microphone: () => toggle("microphone"),
  camera: () => (calls.current?.call.call_type === "video" ? toggle("camera") : calls.upgrade()),
  sound: () => sound.unblock(),
  "take-over": () => calls.takeOver(),
};

async function attempt(action) {
  try {
    await action();
  } catch (error) {
    if (error.name !== "DeviceError") view.showNotice({ text: error.message });
  }
}

function bind() {
  for (const button of document.querySelectorAll("[data-act]")) {
    button.addEventListener("click", () => attempt(() => ACTS[button.dataset.act]()));
  }
  for (const button of document.querySelectorAll("[data-call]")) {
    const person = { user_id: button.closest("[data-person]").dataset.person, name: button.dataset.name };
    const wish = { act: "place", person, callType: button.dataset.call };
    button.addEventListener("click", () => attempt(() => atCallPage(wish)));
  }
  document.getElementById("logout").addEventListener("submit", () => {
    callMemory.clear();
    client.close();
  });
  for (const type of ["pointerdown", "keydown"]) addEventListener(type, () => ring.unlock(), { once: true });
  setInterval(() => view.drawTimer(calls.elapsedS), 500);
}

function listen() {
  calls.on("change", draw);
  calls.on("notice", view.showNotice);
  calls.on("session", follow);
  presence.on("change", draw);
  client.on("call.snapshot", () => {
    ready = true;
    performLeftWord();
    draw();
  });
  client.on("call.ended", ({ call }) => history.follow(call.id));
  client.on("state", ({ state, code }) => {
    const refused = state === "closed" && code !== 1000;
    if (refused || state === "reconnecting") ready = false;
    view.drawConnection({ reconnecting: state === "reconnecting", refused });
    draw();
  });
  // A resumed connection brings no snapshot: nothing was missed.
  client.on("connected", ({ resumed }) => {
    ready ||= resumed;
    draw();
  });
}

drawIcons(document);
view.drawFaces();
history.localTimes();
bind();
listen();
draw();
client.connect().catch(() => {});
