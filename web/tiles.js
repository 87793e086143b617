/** The stage: one tile per camera or screen, arranged to fill it, each fed from its slot. */
import { avatar, element, reconcile } from "./dom.js";
import { icon } from "./icons.js";
import { arrangement, gridColumns } from "./tile-layout.js";

/** More tiles than this would be too small to see; whoever has no slot is left out first. */
const MAX_TILES = 25;
/** Louder than this, on the server's scale of 0 to 1, counts as speaking. */
const SPEAKING_LEVEL = 0.02;
const WEAK_SCORE = 2;
const PREFER_DELAY_MS = 250;
/** Sizes asked for are rounded up to this, so that a small change of the window asks for nothing new. */
const PREFER_STEP_PX = 80;
const MAX_PIXEL_RATIO = 2;

export class Tiles {
  #stage;
  #session = null;
  #me = null;
  #speaking = new Set();
  #weak = new Set();
  /** mid → the wish last sent for it. */
  #preferred = new Map();
  #preferTimer = null;
  #tiles = [];

  constructor(stage) {
    this.#stage = stage;
    new ResizeObserver(() => this.#arrange()).observe(stage);
  }

  /** Show a session from now on, or nothing. */
  show(session, me) {
    this.#session = session;
    this.#me = me;
    this.#speaking.clear();
    this.#weak.clear();
    this.#preferred.clear();
    session?.on("speakers", (speakers) => this.#heard(speakers));
    session?.on("quality", (quality) => this.#measured(quality));
    this.render();
  }

  render() {
    this.#tiles = this.#session ? [...this.#remote(), ...this.#own()] : [];
    reconcile(this.#stage, this.#tiles, {
      key: ({ key }) => key,
      create: (tile) => this.#create(tile),
      update: (node, tile) => update(node, tile),
      remove: (node) => {
        node.querySelector("video").srcObject = null;
      },
    });
    this.#arrange();
  }

  #remote() {
    const { room } = this.#session;
    const tracks = new Map(this.#session.slots.map((slot) => [slot.track_id, slot]));
    const tiles = [];
    for (const participant of room.participants.values()) {
      if (participant.participant_id === room.myId) continue;
      const screen = room.trackOf(participant.participant_id, "screen");
      if (screen) tiles.push(this.#remoteTile(participant, "screen", screen, tracks));
      const camera = room.trackOf(participant.participant_id, "camera");
      tiles.push(this.#remoteTile(participant, "camera", camera, tracks));
    }
    const bySlot = tiles.sort((one, other) => Number(Boolean(other.mid)) - Number(Boolean(one.mid)));
    return bySlot.slice(0, MAX_TILES - 2);
  }

  #remoteTile({ participant_id, user_id, name }, source, published, tracks) {
    const slot = published && tracks.get(published.track_id);
    const visible = slot && !slot.muted && !slot.paused && !published.muted;
    const microphone = this.#session.room.trackOf(participant_id, "microphone");
    return {
      key: `${participant_id} ${source}`, participant_id, user_id, source, self: false,
      name: name || user_id, track: visible ? slot.track : null, mid: slot?.mid ?? null,
      muted: !microphone || Boolean(microphone.muted),
      speaking: this.#speaking.has(participant_id), weak: this.#weak.has(participant_id),
    };
  }

  #own() {
    const { local, participantId, sharing } = this.#session;
    const mine = {
      participant_id: participantId ?? "", user_id: this.#me.user_id, name: "You", avatarName: this.#me.name,
      self: true, mid: null, muted: !local.live("microphone"),
      speaking: this.#speaking.has(participantId), weak: this.#weak.has(participantId),
    };
    const camera = { ...mine, key: "self camera", source: "camera", track: local.track("camera") };
    if (!sharing) return [camera];
    const screen = { key: "self screen", source: "screen", track: local.track("screen"), name: "Your screen" };
    return [{ ...mine, ...screen }, camera];
  }

  #create({ participant_id, user_id, source, self, name, avatarName }) {
    const video = element("video", { muted: true, autoplay: true, playsInline: true, tabIndex: -1 });
    video.muted = true;
    if (!self) this.#stampFirstFrame(video);
    const label = element("span", { className: "tile-label" },
      element("span", { className: "tile-mic" }, icon("micOff")), element("span", { className: "tile-name" }),
      element("span", { className: "tile-weak", title: "Weak connection" }, icon("weak")));
    const node = element("div", { className: "tile", "data-tile": "", "data-source": source, "data-user": user_id,
      "data-participant": participant_id, role: "group" }, avatar(avatarName ?? name, user_id), video, label);
    if (self) node.dataset.self = "true";
    return node;
  }

  #stampFirstFrame(video) {
    const { timings } = this.#session;
    video.requestVideoFrameCallback?.((now) => {
      timings.firstFrameMs ??= now;
    });
  }

  #heard(speakers) {
    const loud = speakers.filter(({ level }) => level > SPEAKING_LEVEL);
    this.#speaking = new Set(loud.map(({ participant_id }) => participant_id));
    this.render();
  }

  #measured({ participant_id, score }) {
    if (score <= WEAK_SCORE) this.#weak.add(participant_id);
    else this.#weak.delete(participant_id);
    this.render();
  }

  #arrange() {
    const count = this.#tiles.length;
    const layout = arrangement(this.#tiles);
    const { clientWidth, clientHeight } = this.#stage;
    const columns = gridColumns(count, clientWidth, clientHeight);
    this.#stage.dataset.layout = layout;
    this.#stage.style.setProperty("--columns", String(columns * 2));
    this.#stage.style.setProperty("--side", String(Math.max(1, count - 1)));
    const lastRow = count % columns;
    const featured = this.#tiles.findIndex(({ source }) => source === "screen");
    [...this.#stage.children].forEach((node, index) => {
      const startsLastRow = lastRow && index === count - lastRow;
      // Half columns let a last row that is not full sit in the middle.
      node.style.setProperty("--start", startsLastRow ? String(columns - lastRow + 1) : "auto");
      node.toggleAttribute("data-featured", layout === "share" && index === featured);
    });
    this.#preferSoon();
  }

  #preferSoon() {
    clearTimeout(this.#preferTimer);
    this.#preferTimer = setTimeout(() => this.#prefer(), PREFER_DELAY_MS);
  }

  /** Ask for no more pixels than a tile has, so that the server can send a smaller layer. */
  #prefer() {
    if (this.#session?.state !== "connected") return;
    const ratio = Math.min(devicePixelRatio, MAX_PIXEL_RATIO);
    const pixels = (length) => Math.ceil((length * ratio) / PREFER_STEP_PX) * PREFER_STEP_PX;
    this.#tiles.forEach(({ mid, key }, index) => {
      const node = this.#stage.children[index];
      if (!mid || !node.clientWidth) return;
      const wish = { mid, max_width: pixels(node.clientWidth), max_height: pixels(node.clientHeight) };
      const text = JSON.stringify([key, wish]);
      if (this.#preferred.get(mid) === text) return;
      this.#preferred.set(mid, text);
      this.#session.prefer(wish).catch(() => this.#preferred.delete(mid));
    });
  }
}

function update(node, { participant_id, name, self, source, track, muted, speaking, weak }) {
  node.dataset.participant = participant_id;
  node.dataset.muted = String(muted);
  node.toggleAttribute("data-speaking", speaking && source === "camera");
  node.toggleAttribute("data-weak", weak);
  node.toggleAttribute("data-video", Boolean(track));
  node.toggleAttribute("data-mirror", self && source === "camera");
  node.querySelector(".tile-name").textContent = source === "screen" && !self ? `${name}’s screen` : name;
  node.setAttribute("aria-label", `${name}${muted ? ", microphone off" : ""}`);
  const video = node.querySelector("video");
  if ((video.srcObject?.getTracks()[0] ?? null) !== track) video.srcObject = track && new MediaStream([track]);
  // A browser pauses a video whose element moves within the page.
  if (track && video.paused) video.play().catch(() => {});
}
