/**
 * The media of one call or room: one peer connection with the server, which always answers.
 *
 * Receiving works by slots: every recvonly m-line is a slot, and `media.slots` says whose track fills it, so people
 * come and go without a negotiation. What the user wants (microphone, camera) is kept apart from what is there, so that it
 * survives a lost connection, and the offer never waits for a camera.
 *
 * Events: `state` {state: connecting|connected|reconnecting|closed}, `change` (people, tracks or slots), `local` (my own
 * devices), `device` (a list of DeviceErrors), `speakers` [{participant_id, level}], `quality` {participant_id, score, …},
 * `removed` {reason}, `failed` (an SfuError: the session is over).
 */
import { coalesce, Emitter } from "./emitter.js";
import { LocalMedia, openDevices, openScreen } from "./local-media.js";
import { RoomState } from "./room-state.js";
import { summarize } from "./media-stats.js";

const OFFER_TIMEOUT_MS = 15_000;
/** ICE often recovers from a short loss by itself; a restart sooner would only add traffic. */
const DISCONNECT_PATIENCE_MS = 3_000;
/** How long one attempt to get media back may take before the next. */
const RECOVERY_PATIENCE_MS = 5_000;
/** After so many ICE restarts in vain the connection itself is taken for dead and made anew. */
const ICE_RESTARTS_BEFORE_REJOIN = 2;
/** The most slots of a kind that a page follows when the server wants more. */
const MAX_SLOTS = 25;

export class MediaSession extends Emitter {
  state = "connecting";
  pc = null;
  room = new RoomState();
  local = new LocalMedia();
  roomName = null;
  /** Settles when the first offer is answered; failures also come as `failed`. */
  joined;
  /** performance.now() stamps of the first join; the page adds firstFrameMs, since only it sees frames. */
  timings = { offerSentMs: null, connectedMs: null, firstFrameMs: null };
  /** What the user wants; the devices follow. */
  desired;

  #client;
  #target;
  #video;
  /** A stream given by the page, used in place of devices where it has a track. */
  #given;
  #slotCounts;
  #subscriptions = [];
  #negotiate = coalesce(() => this.#negotiateOnce());
  #syncDevices = coalesce(() => this.#syncDevicesOnce());
  #announceMutes = coalesce(() => this.#announceMutesOnce());
  /** media.mute requests under way, so that their echo is not taken for a moderator's. */
  #mutesInFlight = 0;
  #recoveries = 0;
  #recoveryTimer = null;
  #statsBefore = null;

  constructor(client, options) {
    super();
    const { call_id, room, stream = null, audioSlots = 9, videoSlots = 9 } = options;
    const { video = true, microphone = true, camera = video } = options;
    this.#client = client;
    this.#target = call_id ? { call_id } : { room };
    this.#video = video;
    this.#given = stream;
    this.#slotCounts = { audio: audioSlots, video: video ? videoSlots : 0, videoLater: videoSlots };
    this.desired = { microphone, camera: video && camera };
    this.#listen();
    this.joined = this.#start();
    this.joined.catch((error) => (error.retryable ? this.#recoverIn(RECOVERY_PATIENCE_MS) : this.#fail(error)));
  }

  get participantId() {
    return this.room.myId;
  }

  get video() {
    return this.#video;
  }

  /** Whether my screen is being shared. */
  get sharing() {
    return this.local.track("screen") !== null;
  }

  /** The slots in use, each with the receiver's track. */
  get slots() {
    const receivers = new Map(this.pc?.getTransceivers().map(({ mid, receiver }) => [mid, receiver.track]));
    return [...this.room.slots.values()].map((slot) => ({ ...slot, track: receivers.get(slot.mid) ?? null }));
  }

  /** Turn the microphone on or off; off is immediate, on may ask for permission and reject with a DeviceError. */
  async setMicrophone(on) {
    this.desired.microphone = on;
    const track = this.local.track("microphone");
    if (track) track.enabled = on;
    this.emit("local");
    await this.#syncDevices();
  }

  /** Turn the camera on or off; off also frees the device, so that its light goes out. */
  async setCamera(on) {
    this.desired.camera = on && this.#video;
    this.emit("local");
    await this.#syncDevices();
  }

  /** Add camera and video slots to a session that began as a voice call. */
  async enableVideo() {
    if (this.#video || this.state === "closed") return;
    this.#video = true;
    this.#slotCounts.video = this.#slotCounts.videoLater;
    this.local.addSender("camera");
    this.#addSlots();
    await this.#negotiate();
  }

  /** Share a screen or window; ends by itself when the user stops it in the browser's own bar. */
  async startScreen() {
    if (this.sharing) return;
    const { screen, screen_audio } = await openScreen();
    screen.onended = () => this.stopScreen().catch(() => {});
    for (const [source, track] of Object.entries({ screen, screen_audio })) {
      if (!track) continue;
      this.local.addSender(source);
      await this.local.set(source, track);
    }
    this.emit("local");
    try {
      await this.#negotiate();
    } catch (error) {
      // Lost with the socket: the offer after its return carries the screen. Refused: it must not seem shared.
      if (!error.retryable) await this.stopScreen();
      throw error;
    }
  }

  async stopScreen() {
    await this.local.unpublish("screen");
    await this.local.unpublish("screen_audio");
    this.emit("local");
    if (this.state !== "closed") await this.#negotiate();
  }

  /** Tell the server what a slot needs on screen: {mid | track_id, max_width?, …, pin?}. */
  prefer(wish) {
    return this.#client.request("media.prefer", wish);
  }

  /** Totals and rates since the last call of this method; rates are null on the first. */
  async stats() {
    const { summary, sample } = summarize(await this.pc.getStats(), this.#statsBefore, performance.now());
    this.#statsBefore = sample;
    return summary;
  }

  /** Leave the room and free every device; the call itself is the page's business. */
  leave() {
    if (this.state === "closed") return;
    this.#client.request("media.leave").catch(() => {});
    this.#close();
  }

  /** Called by the client when the machine's network changed under a living socket. */
  networkChanged() {
    this.#restartIce().catch(() => {});
  }

  #listen() {
    const on = (type, handler) => this.#subscriptions.push(this.#client.on(type, handler));
    const track = (type, change) => on(type, (data) => this.#changed(() => change(this.room, data)));
    on("connected", ({ resumed }) => this.#socketBack(resumed));
    track("media.participants", (room, { participants }) => room.replace(participants));
    track("media.participant_joined", (room, data) => room.join(data.participant ?? data));
    track("media.participant_left", (room, { participant_id }) => room.leave(participant_id));
    track("media.track_published", (room, data) => room.publish(data.participant_id, data.track ?? data));
    track("media.track_unpublished", (room, { track_id }) => room.unpublish(track_id));
    track("media.slots", (room, { slots }) => room.bind(slots));
    on("media.track_muted", (data) => this.#trackMuted(data));
    on("media.speakers", ({ speakers }) => this.emit("speakers", speakers));
    on("media.layers", ({ mid, active }) => this.local.setActiveLayers(mid, active));
    on("media.quality", (data) => this.emit("quality", data));
    on("media.want", (wanted) => this.#wantSlots(wanted));
    on("media.moved", () => this.#recoverNow(() => this.#replace()));
    on("media.removed", ({ reason }) => {
      this.emit("removed", { reason });
      this.#close();
    });
  }

  #changed(change) {
    change();
    this.emit("change");
  }

  #start() {
    this.#build();
    // Beside the negotiation: the path to the server is ready when the camera is, and the other way round.
    this.#syncDevices().catch(() => {});
    return this.#negotiate();
  }

  #build() {
    const pc = new RTCPeerConnection({ bundlePolicy: "max-bundle", iceServers: this.#client.info?.ice_servers ?? [] });
    this.pc = pc;
    const sources = ["microphone"];
    if (this.#video) sources.push("camera");
    if (this.sharing) sources.push("screen");
    if (this.local.track("screen_audio")) sources.push("screen_audio");
    this.local.attach(pc, sources);
    this.#addSlots();
    pc.oniceconnectionstatechange = () => this.#iceChanged(pc);
    pc.onconnectionstatechange = () => this.#connectionChanged(pc);
  }

  /** Slots are only ever added: an m-line cannot leave an SDP. */
  #addSlots() {
    const receiving = this.pc.getTransceivers().filter(({ direction }) => direction === "recvonly");
    for (const kind of ["audio", "video"]) {
      const have = receiving.filter(({ receiver }) => receiver.track.kind === kind).length;
      for (let index = have; index < this.#slotCounts[kind]; index += 1) {
        this.pc.addTransceiver(kind, { direction: "recvonly" });
      }
    }
  }

  #wantSlots({ audio = 0, video = 0 }) {
    const before = { ...this.#slotCounts };
    this.#slotCounts.audio = Math.max(before.audio, Math.min(audio, MAX_SLOTS));
    if (this.#video) this.#slotCounts.video = Math.max(before.video, Math.min(video, MAX_SLOTS));
    if (before.audio === this.#slotCounts.audio && before.video === this.#slotCounts.video) return;
    this.#addSlots();
    this.#negotiate().catch(() => {});
  }

  async #negotiateOnce() {
    const { pc } = this;
    try {
      if (this.state !== "closed") await this.#exchange(pc);
    } catch (error) {
      // What goes wrong on a connection that was replaced meanwhile concerns nobody.
      if (pc === this.pc && this.state !== "closed") throw error;
    }
  }

  async #exchange(pc) {
    if (pc.signalingState === "have-local-offer") await pc.setLocalDescription({ type: "rollback" });
    await pc.setLocalDescription();
    const request = this.#client.request("media.offer", this.#offer(pc), OFFER_TIMEOUT_MS);
    this.timings.offerSentMs ??= performance.now();
    const reply = await request;
    if (pc !== this.pc || this.state === "closed") return;
    const strangers = pc.currentRemoteDescription && reply.participant_id !== this.room.myId;
    // At once, before anything is awaited: a media.slots event that follows the reply must not be overwritten by it.
    this.#adopt(reply);
    // The server no longer knew this connection and made a new participant: its keys do not fit the old transport.
    if (strangers) return void this.#recoverNow(() => this.#replace());
    await pc.setRemoteDescription({ type: "answer", sdp: reply.sdp });
    this.emit("change");
    this.#announceMutes().catch(() => {});
  }

  #offer(pc) {
    return { ...this.#target, sdp: pc.localDescription.sdp, tracks: this.local.describe() };
  }

  #adopt({ participant_id, room_name, participants, slots }) {
    this.room.myId = participant_id;
    this.roomName = room_name;
    this.room.replace(participants ?? []);
    this.room.bind(slots ?? []);
    this.emit("change");
  }

  /** Bring the devices to what is desired, then tell the server; one run at a time, the newest wish wins. */
  async #syncDevicesOnce() {
    const missing = ["microphone", "camera"].filter((source) => this.desired[source] && !this.local.track(source));
    const { tracks, errors } = await this.#open(missing);
    for (const [source, track] of Object.entries(tracks)) await this.#take(source, track);
    for (const source of Object.keys(errors)) this.desired[source] = false;
    if (this.state === "closed") return;
    const microphone = this.local.track("microphone");
    if (microphone) microphone.enabled = this.desired.microphone;
    if (!this.desired.camera) await this.local.drop("camera");
    this.emit("local");
    this.#announceMutes().catch(() => {});
    const failures = Object.values(errors);
    if (failures.length === 0) return;
    this.emit("device", failures);
    throw failures[0];
  }

  async #open(sources) {
    const given = (source) => this.#given?.getTracks().find(({ kind, readyState }) =>
      readyState === "live" && kind === (source === "microphone" ? "audio" : "video"));
    const result = await openDevices(sources.filter((source) => !given(source)));
    for (const source of sources) if (given(source)) result.tracks[source] = given(source);
    return result;
  }

  /** Take a fresh device track, unless the session ended while the user was being asked. */
  async #take(source, track) {
    if (this.state === "closed") return track.stop();
    track.onended = () => this.#deviceLost(source);
    return this.local.set(source, track);
  }

  /** The system took a device away (unplugged, revoked): show it as off rather than as on and silent. */
  #deviceLost(source) {
    this.desired[source] = false;
    this.local.drop(source).then(() => this.#syncDevices()).catch(() => {});
  }

  /** Make the server's mute flags those of the devices; a lost message is repeated after the next negotiation. */
  async #announceMutesOnce() {
    for (const source of ["microphone", "camera"]) {
      const track = this.room.mine(source);
      const muted = !this.local.live(source);
      if (!track || Boolean(track.muted) === muted) continue;
      this.#mutesInFlight += 1;
      try {
        await this.#client.request("media.mute", { track_id: track.track_id, muted });
        this.room.mute(track.track_id, muted);
      } finally {
        this.#mutesInFlight -= 1;
      }
      this.emit("change");
    }
  }

  /** A mute of mine that I did not ask for comes from a moderator: the device goes off as well. */
  #trackMuted({ track_id, muted }) {
    const source = ["microphone", "camera"].find((name) => this.room.mine(name)?.track_id === track_id);
    if (source && this.#mutesInFlight > 0) return;
    this.#changed(() => this.room.mute(track_id, muted));
    if (!source || !muted || !this.desired[source]) return;
    const off = source === "microphone" ? this.setMicrophone(false) : this.setCamera(false);
    off.catch(() => {});
  }

  #socketBack(resumed) {
    const again = resumed ? () => this.#restartIce() : () => this.#rejoin();
    this.#recoverNow(again);
  }

  #iceChanged(pc) {
    if (pc !== this.pc || this.state === "closed") return;
    if (pc.iceConnectionState === "failed") this.#recover();
    if (pc.iceConnectionState === "disconnected") this.#recoverIn(DISCONNECT_PATIENCE_MS);
  }

  #connectionChanged(pc) {
    if (pc !== this.pc || this.state === "closed") return;
    if (pc.connectionState === "connected") {
      clearTimeout(this.#recoveryTimer);
      this.#recoveries = 0;
      this.timings.connectedMs ??= performance.now();
      this.#setState("connected");
    }
    // ICE is well and DTLS is not; a failure of ICE itself is handled above.
    if (pc.connectionState === "failed" && pc.iceConnectionState !== "failed") this.#recover();
  }

  #recoverIn(delayMs) {
    clearTimeout(this.#recoveryTimer);
    this.#recoveryTimer = setTimeout(() => this.#recover(), delayMs);
  }

  /** One attempt to get media back: an ICE restart first, a new connection when restarts do not help. */
  #recover() {
    this.#setState("reconnecting");
    this.#recoveries += 1;
    const fresh = this.#recoveries > ICE_RESTARTS_BEFORE_REJOIN;
    this.#recoverNow(fresh ? () => this.#replace() : () => this.#restartIce());
  }

  /** Without a socket nothing is tried: its return starts the recovery anew. */
  #recoverNow(attempt) {
    if (this.state === "closed" || this.#client.state !== "connected") return;
    if (this.pc.connectionState !== "connected") this.#recoverIn(RECOVERY_PATIENCE_MS);
    attempt().catch((error) => this.#attemptFailed(error));
  }

  /** A refusal for good ends the session; but a refused restart may only mean that the old connection is forgotten. */
  #attemptFailed(error) {
    if (this.state === "closed" || error.retryable) return;
    if (this.#recoveries > ICE_RESTARTS_BEFORE_REJOIN) return this.#fail(error);
    this.#recoveries = ICE_RESTARTS_BEFORE_REJOIN;
    this.#recover();
  }

  #restartIce() {
    this.pc.restartIce();
    return this.#negotiate();
  }

  /** A fresh join with the same devices, after the server itself forgot the old one. */
  async #rejoin() {
    this.#setState("reconnecting");
    this.#closePeer();
    this.#build();
    this.#recoverIn(RECOVERY_PATIENCE_MS * 2);
    await this.#negotiate();
  }

  /** A fresh join while the server still holds the dead connection: it is told to drop that one first. */
  #replace() {
    this.#client.request("media.leave").catch(() => {});
    return this.#rejoin();
  }

  #setState(state) {
    if (this.state === state) return;
    this.state = state;
    this.emit("state", { state });
  }

  #fail(error) {
    if (this.state === "closed") return;
    this.emit("failed", error);
    this.leave();
  }

  #closePeer() {
    this.pc.oniceconnectionstatechange = null;
    this.pc.onconnectionstatechange = null;
    this.pc.close();
  }

  #close() {
    clearTimeout(this.#recoveryTimer);
    for (const unsubscribe of this.#subscriptions) unsubscribe();
    this.#subscriptions = [];
    this.local.close();
    this.#closePeer();
    if (this.#client.media === this) this.#client.media = null;
    this.#setState("closed");
    this.silence();
  }
}
