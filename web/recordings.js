/** The page of recordings: signs in, lists them, and shows one with its player and its timeline. */
import { callTimeline, consentWords, endWords, itemAt, laneKey, sourceWords, timeWords } from "./call-timeline.js";
import { avatar, byTest, element } from "./dom.js";
import { drawIcons } from "./icons.js";
import { Player, TimelineView } from "./player.js";
import { BUNDLE, RecordingsApi, Tickets } from "./recordings-api.js";
import { RecordingsList, alarmWords, badges, lengthWords, nameElement, sizeWords, stateWords, whenWords, whoWords } from "./recordings-list.js";
import { TabMemory } from "./tab-memory.js";
import { gridColumns } from "./tile-layout.js";

/** States in which files can be read, and what to say in others that will not lead there. */
const READABLE = new Set(["sealed", "uploading"]);
const WITHOUT_PLAYER = {
  failed: "The recording failed: there is nothing to play.",
  erasing: "It is being erased: there is nothing to play.",
  erased: "It was erased: there is nothing to play.",
};
const SPEEDS = [1, 1.5, 2];
const STEP_MS = 5_000;
const NOTICE_MS = 6_000;

const memory = new TabMemory("sfu.recordings");
const list = new RecordingsList();
const timelineView = new TimelineView(byTest("timeline"), byTest("mark-words"), (ms) => shown.player.seek(ms));
const byId = (id) => document.getElementById(id);

let api = null;
/** Whether the token lets one hold and erase; the server decides. */
let isAdmin = false;
/** The recording that is shown: {recording, timeline, player, …}; null in the list. */
let shown = null;
let noticeTimer = null;

window.recordingsDebug = {
  get player() {
    return shown?.player ?? null;
  },
};

// Signing in

async function signIn(token) {
  byTest("signin-error").textContent = "";
  api = new RecordingsApi(token);
  list.use(api);
  try {
    await list.refresh(true);
  } catch (error) {
    api = null;
    if (error.status) memory.clear();
    showScreen("signin");
    const hint = error.code === "no_record" ? " It lacks the grants record and admin." : "";
    byTest("signin-error").textContent = error.status ? `This token does not open the recordings.${hint} ${error.message}` : error.message;
    return;
  }
  memory.update({ token });
  drawMe(token);
  await route();
}

function drawMe(token) {
  const { sub = "", name = "", sfu = {} } = claims(token);
  isAdmin = Boolean(sfu.admin);
  byTest("filter-user").closest(".field").hidden = !isAdmin;
  const grant = isAdmin ? "all calls" : "your calls";
  byTest("me").replaceChildren(nameElement(name || sub), element("span", { className: "tag", textContent: grant }));
}

/** What stands in a token, for showing only: the server checks it. */
function claims(token) {
  try {
    const bytes = Uint8Array.from(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
    return JSON.parse(new TextDecoder().decode(bytes)) ?? {};
  } catch {
    return {};
  }
}

// Where one is: #recording=<id>; a token in the fragment is taken out of it at once.

async function route() {
  const told = new URLSearchParams(location.hash.slice(1));
  leave();
  if (!api) return;
  const id = told.get("recording");
  showScreen(id ? "recording" : "list");
  if (id) await open(id);
  else byId("list-title").focus({ preventScroll: true });
}

function takeToken() {
  const told = new URLSearchParams(location.hash.slice(1));
  const token = told.get("token");
  if (token) {
    told.delete("token");
    history.replaceState(null, "", `${location.pathname}${told.size ? `#${told}` : ""}`);
  }
  return token;
}

function showScreen(name) {
  document.body.dataset.view = name;
  for (const screen of document.querySelectorAll("[data-screen]")) screen.hidden = screen.dataset.screen !== name;
}

function leave() {
  byTest("ask").close();
  shown?.player?.close();
  shown = null;
  byTest("stage").replaceChildren();
  byTest("voices").replaceChildren();
}

// One recording

async function open(id) {
  const here = { id, player: null };
  shown = here;
  byTest("player").hidden = true;
  for (const name of ["title", "verdict", "alarms", "facts", "files", "audit-entries"]) byTest(name).replaceChildren();
  byTest("audit").open = false;
  byId("recording-badges").replaceChildren();
  byId("recording-when").textContent = "";
  say("Reading the recording…");
  try {
    here.recording = await api.get(id);
    if (shown !== here) return;
    drawRecording();
    if (!READABLE.has(here.recording.state)) {
      say(WITHOUT_PLAYER[here.recording.state] ?? "It can be played when it is sealed.");
      return;
    }
    const tickets = new Tickets(api, id);
    const [manifest, events] = await Promise.all([tickets.manifest(), tickets.events()]);
    if (shown === here) begin(here, callTimeline(manifest, events), tickets);
  } catch (error) {
    if (shown === here) say(`This recording cannot be shown. ${error.message}`, true);
  }
}

function say(words, isError = false) {
  const place = byTest("no-player");
  place.hidden = !words;
  place.textContent = words;
  place.toggleAttribute("data-error", isError);
}

function drawRecording() {
  const { recording } = shown;
  const { id, call_id, created_at, started_at, duration_ms, bytes, by, reason, end_reason, consent, keep_until, hold, state } = recording;
  const isReadable = READABLE.has(state);
  const names = whoWords(recording);
  byTest("title").replaceChildren(...names.flatMap((name, index) => [index > 0 ? ", " : "", nameElement(name)]));
  byTest("title").focus({ preventScroll: true });
  byId("recording-badges").replaceChildren(...badges(recording));
  byId("recording-when").textContent = [whenWords(started_at ?? created_at), lengthWords(duration_ms), sizeWords(bytes)].filter(Boolean).join(" · ");
  byTest("alarms").replaceChildren(...alarmWords(recording).map((words) => element("li", { textContent: words })));
  const facts = {
    State: stateWords(state),
    "Asked for by": by === "policy" ? "the server’s rule: every call" : by,
    Reason: reason,
    Consent: consent && consentWords(consent),
    Ended: end_reason && endWords(end_reason),
    "Keep until": whenWords(keep_until),
    Hold: hold && `${hold.reason} (by ${hold.by}, ${whenWords(hold.at)})`,
    Erased: recording.erased_at && `${whenWords(recording.erased_at)} by ${recording.erased_by}: ${recording.erase_reason}`,
    Call: call_id,
    Recording: id,
  };
  const rows = Object.entries(facts).filter(([, value]) => value);
  byTest("facts").replaceChildren(...rows.flatMap(([name, value]) => [element("dt", { textContent: name }), element("dd", { textContent: value })]));
  drawFiles();
  byTest("verify").disabled = !isReadable;
  for (const name of ["hold", "erase"]) byTest(name).disabled = state === "erasing" || state === "erased";
  for (const name of ["hold", "erase", "audit"]) byTest(name).hidden = !isAdmin;
  byTest("hold").textContent = hold ? "End the hold" : "Hold";
}

function drawFiles() {
  const { recording } = shown;
  const isReadable = READABLE.has(recording.state);
  const plain = isReadable ? [{ name: "manifest.json" }, { name: "manifest.sig" }, { name: "events.jsonl" },
    { name: BUNDLE, note: "All of it, checksums, a report, SIPREC metadata" }] : [];
  byTest("files").replaceChildren(...[...(recording.files ?? []), ...plain].map((file) => {
    const { name, note, user_name, user_id, source, codec, bytes, duration_ms } = file;
    const who = user_name || user_id;
    const about = [note, who && `${sourceWords(source)} of ${who}`, codec?.toUpperCase(), lengthWords(duration_ms), sizeWords(bytes)];
    const button = element("button", { className: "button quiet", type: "button", textContent: "Download", "aria-label": `Download ${name}`,
      "data-testid": `download-${name}` });
    button.disabled = !isReadable;
    button.addEventListener("click", () => download(name, button));
    return element("li", {},
      element("span", {}, element("span", { textContent: name }), element("bdi", { className: "file-about", textContent: about.filter(Boolean).join(" · ") })),
      button);
  }));
}

async function download(name, button) {
  button.disabled = true;
  try {
    const url = URL.createObjectURL(await api.download(shown.id, name));
    element("a", { href: url, download: `${shown.id}-${name}` }).click();
    setTimeout(() => URL.revokeObjectURL(url), NOTICE_MS);
  } catch (error) {
    notice(`${name} could not be read. ${error.message}`);
  }
  button.disabled = false;
}

function notice(words) {
  byTest("notice").textContent = words;
  byId("notice").classList.add("shown");
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => byId("notice").classList.remove("shown"), NOTICE_MS);
}

// Acts

byTest("verify").addEventListener("click", async () => {
  const here = shown;
  const place = byTest("verdict");
  place.removeAttribute("data-right");
  place.textContent = "Checking every file…";
  try {
    const { is_right, problems, key_id } = await api.verify(here.id);
    if (shown !== here) return;
    place.dataset.right = String(is_right);
    const rows = problems.map(({ file, what }) => element("li", { textContent: `${file}: ${what}` }));
    place.replaceChildren(
      element("p", { textContent: is_right ? `Everything is as it was recorded, signed with key ${key_id}.` : "This is not what was recorded:" }),
      element("ul", {}, ...rows));
  } catch (error) {
    place.textContent = `It could not be checked. ${error.message}`;
  }
});

byTest("hold").addEventListener("click", () => {
  const { id } = shown;
  const isHeld = !shown.recording.hold;
  ask({
    title: isHeld ? "Hold this recording?" : "End the hold?",
    words: isHeld ? "It cannot be erased, by nobody and by no rule, until the hold is ended." : "It may be erased then, and is when its time is over.",
    yes: isHeld ? "Hold" : "End the hold",
    act: (reason) => api.hold(id, isHeld, reason),
  });
});

byTest("erase").addEventListener("click", () => {
  const { id, started_at, created_at } = shown.recording;
  ask({
    title: `Erase ${id}?`,
    words: `The recording of ${whoWords(shown.recording).join(", ")} of ${whenWords(started_at ?? created_at)} is gone for ever then, with every file.`,
    yes: "Erase for ever",
    isDanger: true,
    act: (reason) => api.erase(id, reason),
  });
});

/** Ask for a reason and do it; a refusal is told in the dialog, which stays open. */
function ask({ title, words, yes, isDanger = false, act }) {
  const dialog = byTest("ask");
  byId("ask-title").textContent = title;
  byId("ask-words").textContent = words;
  byTest("ask-error").textContent = "";
  byTest("reason").value = "";
  byTest("ask-yes").textContent = yes;
  byTest("ask-yes").className = `button ${isDanger ? "danger" : "primary"}`;
  byId("ask-form").onsubmit = async (event) => {
    event.preventDefault();
    byTest("ask-yes").disabled = true;
    try {
      await act(byTest("reason").value.trim());
      dialog.close();
      await again();
    } catch (error) {
      byTest("ask-error").textContent = error.message;
    }
    byTest("ask-yes").disabled = false;
  };
  dialog.showModal();
}

/** What is told of the recording changed: its files only when it was erased. */
async function again() {
  const here = shown;
  const recording = await api.get(here.id);
  list.refresh();
  if (shown !== here) return;
  if (recording.state !== here.recording.state) {
    await route();
    return;
  }
  here.recording = recording;
  drawRecording();
  byTest("hold").focus();
}

byTest("audit").addEventListener("toggle", async () => {
  if (!byTest("audit").open) return;
  const place = byTest("audit-entries");
  try {
    const { entries } = await api.audit(shown.id);
    place.replaceChildren(...entries.map(({ at, action, user_id, detail }) => {
      const more = detail && Object.keys(detail).length > 0 ? JSON.stringify(detail) : "";
      const words = [action, user_id && `by ${user_id}`, typeof detail === "string" ? detail : more].filter(Boolean).join(" ");
      return element("li", {}, element("time", { dateTime: at, textContent: whenWords(at) }), element("bdi", { textContent: words }));
    }));
  } catch (error) {
    place.replaceChildren(element("li", { textContent: error.message }));
  }
});

// Playing

function begin(here, timeline, tickets) {
  say("");
  byTest("player").hidden = false;
  here.timeline = timeline;
  const lanes = new Map(timeline.lanes.map((lane) => [lane.key, lane]));
  const pictures = new Map(timeline.pieces.filter(({ kind }) => kind === "video").map((piece) => [laneKey(piece.userId, piece.source), piece]));
  here.tiles = [...pictures].sort(([, one], [, other]) => (other.source === "screen") - (one.source === "screen"))
    .map(([key, { userId, source }]) => tile(lanes.get(userId), source, lanes.get(key)));
  byTest("stage").replaceChildren(...here.tiles.map(({ node }) => node));
  const isSeen = (userId) => here.tiles.some(({ person, source }) => person.userId === userId && source === "camera");
  here.voices = timeline.people.filter(({ userId }) => !isSeen(userId)).map(({ userId }) => voice(lanes.get(userId)));
  byTest("voices").replaceChildren(...here.voices.map(({ node }) => node));
  here.player = new Player(timeline.pieces, timeline.durationMs, tickets, ({ kind, userId, source }) => (
    kind === "audio" ? byTest("voices") : here.tiles.find(({ person, source: its }) => person.userId === userId && its === source).node));
  here.player.on("change", drawTransport);
  here.player.setMuted(byTest("sound").getAttribute("aria-pressed") !== "true");
  byTest("seek").max = String(Math.ceil(timeline.durationMs));
  timelineView.show(timeline);
  arrange();
  drawTransport();
  follow(here);
}

function tile(person, source, lane) {
  const note = element("span", { className: "tile-note" });
  const name = source === "screen" ? `${person.name}’s screen` : person.name;
  const node = element("div", { className: "tile", "data-tile": "", "data-user": person.userId, "data-source": source, role: "group", "aria-label": name },
    avatar(person.name, person.userId),
    element("span", { className: "tile-label" }, element("bdi", { className: "tile-name", textContent: name }), note));
  return { node, note, person, source, lane };
}

function voice(person) {
  const note = element("span", { className: "tile-note" });
  const node = element("li", { className: "voice", "data-user": person.userId },
    avatar(person.name, person.userId), element("bdi", { className: "tile-name", textContent: person.name }), note);
  return { node, note, person };
}

/** Draw what holds at the present time, with each frame of the screen, as long as this recording is shown. */
function follow(here) {
  if (shown !== here) return;
  const { player, timeline } = here;
  const at = player.position;
  const moved = Math.floor(at / 50);
  if (moved !== here.drawn || here.isStale) {
    here.drawn = moved;
    here.isStale = false;
    drawMoment(here, Math.min(at, timeline.durationMs - 1));
    drawTime(at, timeline.durationMs);
  }
  requestAnimationFrame(() => follow(here));
}

function drawTime(at, durationMs) {
  const words = `${timeWords(at)} / ${timeWords(durationMs)}`;
  if (byTest("time").textContent !== words) byTest("time").textContent = words;
  byTest("seek").value = String(at);
  byTest("seek").setAttribute("aria-valuetext", `${timeWords(at)} of ${timeWords(durationMs)}`);
  timelineView.setPosition(at);
}

function drawMoment({ tiles, voices, timeline: { pauses, pieces } }, at) {
  const pause = pauses.find(({ from, to }) => from <= at && at < to);
  for (const { node, note, person, source, lane } of tiles) {
    const piece = pieces.find((one) => one.userId === person.userId && one.source === source && one.from <= at && at < one.to);
    const isOff = Boolean(itemAt(lane, "muted", at));
    node.toggleAttribute("data-video", Boolean(piece) && !isOff && !pause);
    node.toggleAttribute("data-away", !piece);
    node.toggleAttribute("data-speaking", Boolean(itemAt(person, "spoke", at)) && source === "camera");
    note.textContent = noteWords(person, at, piece, isOff);
    for (const video of node.querySelectorAll("video")) video.toggleAttribute("data-live", video.dataset.file === piece?.name);
  }
  for (const { node, note, person } of voices) {
    const piece = pieces.some(({ userId, from, to }) => userId === person.userId && from <= at && at < to);
    node.toggleAttribute("data-away", !piece);
    node.toggleAttribute("data-speaking", Boolean(itemAt(person, "spoke", at)));
    note.textContent = noteWords(person, at, piece, false);
  }
  byTest("pause-note").hidden = !pause;
  if (pause) byTest("pause-note").firstElementChild.textContent = `Nothing was recorded from ${timeWords(pause.from)} to ${timeWords(pause.to)}: ${pause.reason || "no reason was given"}`;
}

function noteWords(person, at, piece, isOff) {
  if (isOff) return "off";
  if (piece) return "";
  return itemAt(person, "present", at) ? "not recorded" : "not in the call";
}

function drawTransport() {
  const { player } = shown;
  const button = byTest("play");
  button.toggleAttribute("data-active", player.isPlaying);
  button.setAttribute("aria-label", player.isPlaying ? "Pause" : "Play");
  for (const speed of byTest("speeds").children) speed.setAttribute("aria-pressed", String(Number(speed.dataset.rate) === player.rate));
  const what = (files) => [...new Set(files.map(({ source, userName, userId }) => `${sourceWords(source)} of ${userName || userId}`))].join(", ");
  const { broken } = player;
  const words = [
    player.isPlaying && player.waiting.length > 0 && `Waiting for: ${what(player.waiting)}`,
    broken.length > 0 && `Cannot be played: ${what(broken)}. Play again to try once more, or download it.`,
  ];
  byTest("player-words").textContent = words.filter(Boolean).join(" · ");
  shown.isStale = true;
}

function arrange() {
  const stage = byTest("stage");
  const count = shown?.tiles?.length ?? 0;
  stage.parentElement.hidden = count === 0;
  if (count === 0) return;
  const columns = gridColumns(count, stage.clientWidth, stage.clientHeight);
  stage.style.setProperty("--columns", String(columns * 2));
  const lastRow = count % columns;
  [...stage.children].forEach((node, index) => {
    node.style.setProperty("--start", lastRow && index === count - lastRow ? String(columns - lastRow + 1) : "auto");
  });
}

new ResizeObserver(arrange).observe(byTest("stage").parentElement);

byTest("play").addEventListener("click", toggle);
byTest("seek").addEventListener("input", () => shown.player.seek(Number(byTest("seek").value)));
byTest("skip-pause").addEventListener("click", () => {
  const { player, timeline } = shown;
  const pause = timeline.pauses.find(({ from, to }) => from <= player.position && player.position < to);
  if (pause) player.seek(pause.to);
  byTest("play").focus();
});
byTest("sound").addEventListener("click", () => {
  const isOn = byTest("sound").getAttribute("aria-pressed") !== "true";
  byTest("sound").setAttribute("aria-pressed", String(isOn));
  shown.player.setMuted(!isOn);
});
byTest("speeds").append(...SPEEDS.map((rate) => {
  const button = element("button", { type: "button", textContent: `${rate}×`, "data-rate": String(rate), "data-testid": `speed-${rate}`, "aria-pressed": "false" });
  button.addEventListener("click", () => shown.player.setRate(rate));
  return button;
}));

function toggle() {
  const { player } = shown;
  if (player.isPlaying) player.pause();
  else player.play();
}

document.addEventListener("keydown", (event) => {
  if (!shown?.player || event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || byTest("ask").open) return;
  const { target } = event;
  if (target.matches("input:not([type=range]), select, textarea")) return;
  const { player } = shown;
  const acts = {
    " ": !target.closest("button, a, summary") && toggle,
    ArrowLeft: () => player.seek(player.position - STEP_MS),
    ArrowRight: () => player.seek(player.position + STEP_MS),
    Home: () => player.seek(0),
    End: () => player.seek(shown.timeline.durationMs),
  };
  if (!acts[event.key]) return;
  event.preventDefault();
  acts[event.key]();
});

// Beginning

drawIcons(document);
byId("signin-form").addEventListener("submit", (event) => {
  event.preventDefault();
  signIn(byTest("token").value.trim());
});
byTest("sign-out").addEventListener("click", () => {
  memory.clear();
  api = null;
  byTest("token").value = "";
  leave();
  showScreen("signin");
});
byTest("ask-no").addEventListener("click", () => byTest("ask").close());
addEventListener("hashchange", () => {
  const token = takeToken();
  if (token) signIn(token);
  else route();
});
const first = takeToken() ?? memory.read().token;
if (first) signIn(first);
