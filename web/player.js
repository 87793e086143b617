/**
 * Plays the files of a recording in step, and shows where it is. One clock runs; every file that has something at its
 * time follows it, and it stands still while one of them is not ready. Times are milliseconds of the recording.
 */
import { ticks, timeWords } from "./call-timeline.js";
import { element, reconcile } from "./dom.js";
import { Emitter } from "./emitter.js";

const TICK_MS = 50;
/** A file is opened so long before it is needed, and closed so long after. */
const OPEN_MS = 5_000;
const CLOSE_MS = 10_000;
/** Beyond this a file that plays is brought back by its speed, and beyond the second by seeking; one that stands, by the third. */
const DRIFT_S = 0.02;
const SEEK_S = 0.5;
const STANDING_DRIFT_S = 0.06;
/** A speed is changed by no more than this part: sound can still be listened to, and pictures are there soon. */
const MAX_NUDGE = { audio: 0.2, video: 0.5 };
/** So much of a drift is made up for in each second, as far as the speed may be changed. */
const NUDGE_GAIN = 3;
/** Sound begins a little after it is told to: for so long after each start the clock goes by it. */
const SETTLE_MS = 600;
/** Nobody waits for so little at the end of a file. */
const LAST_S = 0.3;
/**
 * Pictures are taken up so long after a gap. A browser that comes to a place within a gap takes the gap for the time that
 * each picture lasts, and is late with those that follow.
 */
const RESUME_MS = 400;
const AXIS_TICK_PX = 90;

export class Player extends Emitter {
  #pieces;
  #durationMs;
  #rate = 1;
  #isWanted = false;
  /** The position when the clock was set; `#runsSince` is null while it stands. */
  #position = 0;
  #runsSince = null;
  #settlesUntil = 0;
  #told = "";
  #timer = setInterval(() => this.#tick(), TICK_MS);

  /** `files` as callTimeline tells them; `hostOf(file)` is where its element goes. */
  constructor(files, durationMs, tickets, hostOf) {
    super();
    this.#durationMs = durationMs;
    this.#pieces = files.map((file) => new Piece(file, tickets, hostOf(file)));
    this.#tick();
  }

  get position() {
    if (this.#runsSince === null) return this.#position;
    return Math.min(this.#durationMs, this.#position + (performance.now() - this.#runsSince) * this.#rate);
  }

  /** Whether it plays, or will as soon as every file is ready. */
  get isPlaying() {
    return this.#isWanted;
  }

  get rate() {
    return this.#rate;
  }

  /** Files that are waited for now, and those that cannot be played. */
  get waiting() {
    return this.#pieces.filter((piece) => piece.keepsWaiting(this.position)).map(({ file }) => file);
  }

  get broken() {
    return this.#pieces.filter(({ isBroken }) => isBroken).map(({ file }) => file);
  }

  /** How far each file that plays is from where it should be, in milliseconds. */
  get drifts() {
    const at = this.position;
    const playing = this.#pieces.filter((piece) => piece.holds(at) && piece.media);
    return Object.fromEntries(playing.map((piece) => [piece.file.name, piece.driftS(at) * 1000]));
  }

  /** Play; what could not be played is tried again. */
  play() {
    for (const piece of this.#pieces) piece.retry();
    if (this.position >= this.#durationMs) this.seek(0);
    this.#isWanted = true;
    this.#tick();
  }

  pause() {
    this.#isWanted = false;
    this.#tick();
  }

  seek(ms) {
    this.#set(Math.min(this.#durationMs, Math.max(0, ms)), this.#runsSince !== null);
    this.#tick();
  }

  setRate(rate) {
    this.#set(this.position, this.#runsSince !== null);
    this.#rate = rate;
    this.#tick();
  }

  setMuted(isMuted) {
    for (const piece of this.#pieces) piece.setMuted(isMuted);
  }

  close() {
    clearInterval(this.#timer);
    for (const piece of this.#pieces) piece.forget();
    this.silence();
  }

  #set(position, runs) {
    this.#position = position;
    this.#runsSince = runs ? performance.now() : null;
  }

  #tick() {
    const at = this.position;
    if (at >= this.#durationMs) this.#isWanted = false;
    for (const piece of this.#pieces) piece.steer(at, this.#rate, this.#runsSince !== null && this.#isWanted);
    const runs = this.#isWanted && this.waiting.length === 0;
    if (runs !== (this.#runsSince !== null)) {
      this.#set(at, runs);
      this.#settlesUntil = performance.now() + SETTLE_MS;
      for (const piece of this.#pieces) piece.steer(at, this.#rate, runs);
    } else if (runs && performance.now() < this.#settlesUntil) this.#followSound(at);
    this.#tell();
  }

  /** Pictures can be made slower or faster for a moment without anybody noticing; sound cannot. */
  #followSound(at) {
    const drifts = this.#pieces.filter((piece) => piece.isHeard(at)).map((piece) => piece.driftS(at)).sort((one, other) => one - other);
    const middle = drifts[Math.floor(drifts.length / 2)] ?? 0;
    if (Math.abs(middle) > DRIFT_S) this.#set(Math.max(0, at + middle * 1000), true);
  }

  /** Say that something changed other than the time. */
  #tell() {
    const names = (files) => files.map(({ name }) => name);
    const now = JSON.stringify([this.#isWanted, this.#rate, names(this.waiting), names(this.broken)]);
    if (now === this.#told) return;
    this.#told = now;
    this.emit("change");
  }
}

/** One file, with an element while it is needed. */
class Piece {
  media = null;
  isBroken = false;
  #tickets;
  #host;
  #url = null;
  #isOpening = false;
  #hasFailed = false;
  #isMuted = false;
  /** Address of the sound with its gaps filled, once it was read. */
  #sound = null;

  constructor(file, tickets, host) {
    this.file = file;
    this.#tickets = tickets;
    this.#host = host;
  }

  holds(at) {
    return this.file.from <= at && at < this.file.to && !this.#gapAt(at);
  }

  isHeard(at) {
    return this.file.kind === "audio" && this.holds(at) && this.media !== null && !this.media.paused;
  }

  driftS(at) {
    return this.media.currentTime - this.#mediaS(at);
  }

  /** Whether the clock has to stand still for this one. */
  keepsWaiting(at) {
    if (this.isBroken || !this.holds(at) || this.file.to - at < LAST_S * 1000) return false;
    const { media } = this;
    return !media || media.seeking || (media.readyState < HTMLMediaElement.HAVE_FUTURE_DATA && !media.ended);
  }

  /** Be where the recording is, and go on if it does. */
  steer(at, rate, runs) {
    const { from, to } = this.file;
    if (at < from - CLOSE_MS || at > to + CLOSE_MS) this.#close();
    else if (at > from - OPEN_MS && at < to + OPEN_MS) this.#open();
    const { media } = this;
    if (!media || media.readyState < HTMLMediaElement.HAVE_METADATA) return;
    const goesOn = runs && this.holds(at);
    const gap = this.#gapAt(at);
    const target = this.#mediaS(Math.min(to, Math.max(from, gap ? gap.to + RESUME_MS : at)));
    const drift = media.currentTime - target;
    // A file may end earlier than was told: its last frame stays.
    const isOver = media.ended && drift < 0;
    if (Math.abs(drift) > (goesOn ? SEEK_S : STANDING_DRIFT_S) && !isOver) media.currentTime = target;
    if (!goesOn) {
      if (!media.paused) media.pause();
      return;
    }
    const most = MAX_NUDGE[this.file.kind];
    const nudge = Math.abs(drift) > DRIFT_S ? Math.min(most, Math.max(-most, -drift * NUDGE_GAIN)) : 0;
    const wanted = Math.round(rate * (1 + nudge) * 100) / 100;
    if (media.playbackRate !== wanted) media.playbackRate = wanted;
    if (media.paused && !media.ended) media.play().catch(() => {});
  }

  setMuted(isMuted) {
    this.#isMuted = isMuted;
    if (this.media) this.media.muted = isMuted;
  }

  retry() {
    this.isBroken = this.#hasFailed = false;
  }

  /** End for good. */
  forget() {
    this.#close();
    this.isBroken = true;
    if (this.#sound) URL.revokeObjectURL(this.#sound);
  }

  /** The gap that one waits through at a moment; sound has silence there. */
  #gapAt(at) {
    const { kind, gaps } = this.file;
    return kind === "video" ? gaps.find(({ from, to }) => from <= at && at < to + RESUME_MS) : undefined;
  }

  #mediaS(at) {
    return (at - this.file.startMs) / 1000 / this.file.rate;
  }

  async #open(refused = null) {
    if (this.media || this.#isOpening || this.isBroken) return;
    this.#isOpening = true;
    try {
      this.#url = this.file.kind === "audio" ? await this.#readSound() : await this.#tickets.url(this.file.name, refused);
      if (!this.isBroken) this.#show();
    } catch {
      this.isBroken = true;
    } finally {
      this.#isOpening = false;
    }
  }

  #show() {
    const media = element(this.file.kind, { preload: "auto", playsInline: true, muted: this.#isMuted, "data-file": this.file.name });
    media.tabIndex = -1;
    media.addEventListener("error", () => this.#failed(media));
    media.addEventListener("playing", () => (this.#hasFailed = false));
    media.src = this.#url;
    this.media = media;
    this.#host.append(media);
  }

  /** A ticket may be over: with a new one it is tried once more. */
  #failed(media) {
    if (media !== this.media) return;
    this.#close();
    if (this.#hasFailed) this.isBroken = true;
    else {
      this.#hasFailed = true;
      this.#open(this.#url);
    }
  }

  #close() {
    const { media } = this;
    if (!media) return;
    this.media = null;
    media.removeAttribute("src");
    media.load();
    media.remove();
  }

  async #readSound() {
    if (!this.#sound) {
      const bytes = await this.#tickets.sound(this.file.name);
      this.#sound = URL.createObjectURL(new Blob([bytes], { type: "audio/x-matroska" }));
    }
    return this.#sound;
  }
}

/** The timeline below the player: lanes with marks that say what they are, and lead there. */
export class TimelineView {
  #node;
  #wordsNode;
  #seek;
  #durationMs = 1;

  /** `seek(ms)` is called for a place that somebody chose. */
  constructor(node, wordsNode, seek) {
    this.#node = node;
    this.#wordsNode = wordsNode;
    this.#seek = seek;
    node.addEventListener("pointerover", ({ target }) => this.#tell(target.closest(".mark")));
    node.addEventListener("pointerleave", () => this.#tell(node.querySelector(".mark:focus-visible")));
    node.addEventListener("focusin", ({ target }) => this.#focused(target.closest(".mark")));
    node.addEventListener("click", (event) => this.#clicked(event));
    node.addEventListener("keydown", (event) => this.#pressed(event));
    new ResizeObserver(() => this.#drawAxis()).observe(node);
  }

  show({ lanes, pauses, durationMs }) {
    this.#durationMs = durationMs;
    const rows = lanes.map(({ key, kind, label, name, items }) => {
      const whose = kind === "track" ? `${label} of ${name}` : label;
      const track = element("div", { className: "lane-track", role: "group", "aria-label": whose }, ...items.map((item) => this.#mark(item)));
      const title = element("bdi", { className: "lane-name", textContent: label, title: whose });
      return element("div", { className: "lane", "data-kind": kind, "data-lane": key }, title, track);
    });
    const bands = pauses.map(({ from, to }) => this.#place(element("div", { className: "over-pause" }), from, to));
    this.#node.replaceChildren(...rows,
      element("div", { className: "axis", "aria-hidden": "true" }, element("div", { className: "axis-ticks" })),
      element("div", { className: "over", "aria-hidden": "true" }, ...bands, element("div", { className: "head" })));
    const first = this.#node.querySelector(".mark");
    if (first) first.tabIndex = 0;
    this.#tell(null);
    this.#drawAxis();
  }

  setPosition(ms) {
    this.#node.style.setProperty("--at", this.#part(ms));
  }

  #mark({ kind, from, to, words }) {
    const node = element("button", { className: "mark", type: "button", tabIndex: -1, "data-mark": kind, "data-from": String(from), "aria-label": words });
    node.toggleAttribute("data-moment", from === to);
    return this.#place(node, from, to);
  }

  #place(node, from, to) {
    node.style.setProperty("--from", this.#part(from));
    node.style.setProperty("--length", this.#part(to - from));
    return node;
  }

  #part(ms) {
    return `${(100 * ms) / this.#durationMs}%`;
  }

  #drawAxis() {
    const place = this.#node.querySelector(".axis-ticks");
    if (!place) return;
    const most = Math.max(2, Math.floor(place.clientWidth / AXIS_TICK_PX));
    reconcile(place, ticks(this.#durationMs, most), {
      key: (ms) => String(ms),
      create: (ms) => this.#place(element("span", { textContent: timeWords(ms) }), ms, ms),
    });
  }

  /** Say what a mark is. */
  #tell(mark) {
    this.#wordsNode.textContent = mark?.getAttribute("aria-label") ?? "Point at a mark to read what it is.";
    this.#wordsNode.toggleAttribute("data-shown", Boolean(mark));
  }

  /** One mark is reached by Tab: the one that was left last. */
  #focused(mark) {
    if (!mark) return;
    this.#tell(mark);
    for (const other of this.#node.querySelectorAll('.mark[tabindex="0"]')) other.tabIndex = -1;
    mark.tabIndex = 0;
  }

  #clicked({ target, clientX, detail }) {
    const track = target.closest(".lane-track");
    if (!track) return;
    const mark = target.closest(".mark");
    // A key gives no place, and who points at a moment means that moment.
    if (mark && (detail === 0 || mark.hasAttribute("data-moment"))) this.#seek(Number(mark.dataset.from));
    else {
      const { left, width } = track.getBoundingClientRect();
      this.#seek(((clientX - left) / width) * this.#durationMs);
    }
  }

  #pressed(event) {
    const mark = event.target.closest(".mark");
    const next = mark && this.#neighbour(mark, event.key);
    if (!next) return;
    event.preventDefault();
    next.focus();
  }

  /** The mark that a key leads to: in its lane, or the nearest in time of the next lane that has any. */
  #neighbour(mark, key) {
    const lane = mark.parentElement;
    const within = { ArrowLeft: mark.previousElementSibling, ArrowRight: mark.nextElementSibling, Home: lane.firstElementChild, End: lane.lastElementChild };
    if (key in within) return within[key] ?? mark;
    if (key !== "ArrowUp" && key !== "ArrowDown") return null;
    const tracks = [...this.#node.querySelectorAll(".lane-track:not(:empty)")];
    const next = tracks[tracks.indexOf(lane) + (key === "ArrowUp" ? -1 : 1)];
    const away = (one) => Math.abs(Number(one.dataset.from) - Number(mark.dataset.from));
    return next ? [...next.children].reduce((best, one) => (away(one) < away(best) ? one : best)) : mark;
  }
}
