/**
 * Which call this page is in, and which ones ring: follows the server's call events and joins or leaves media to match.
 * Knows no DOM. Every event carries the whole call, so the page looks at the call's state and never counts events.
 *
 * Events: `change`, `notice` {text, detail?}, `session` (a new MediaSession, before it connects).
 */
import { changeNotices, clock, endNotice, isGroup, missedNotice, myState, others } from "./call-words.js";
import { Emitter } from "./emitter.js";
import { toMs } from "./timestamp.js";

const CALL_EVENTS = [
  "ringing", "answered", "answered_elsewhere", "rejected", "cancelled", "missed", "busy", "participant_joined",
  "participant_left", "ended", "recording", "updated",
];
/** More calls than this at one time are not shown; the server still ends them in its own time. */
const MAX_INCOMING = 4;
/** Reasons to be taken out of a room that are not a moderator's. */
const REMOVED = { replaced: "This call continues on another device" };
/** What the tab remembers between placing a call and learning its id, so that a reload then loses nothing. */
const PLACING = "placing";
const WAITING = new Set(["invited", "ringing"]);
const TAKING_PART = new Set(["answered", "joined"]);

export class Calls extends Emitter {
  /** {call, phase: "outgoing" | "call"}; `call.id` is null until the server has made it. */
  current = null;
  /** call id → call, oldest first. */
  incoming = new Map();
  /** An active call of mine that another tab or device is in; offered, never taken over unasked. */
  elsewhere = null;
  session = null;

  #client;
  #me;
  /** What this tab remembers over a reload: {callId, microphone, camera}. */
  #memory;

  constructor(client, me, memory) {
    super();
    this.#client = client;
    this.#me = me;
    this.#memory = memory;
    client.on("call.incoming", ({ call }) => this.#ring(call));
    client.on("call.snapshot", ({ calls }) => this.#snapshot(calls));
    for (const type of CALL_EVENTS) client.on(`call.${type}`, (data) => this.#follow(type, data));
  }

  /** Call people. Media is joined while it rings, so that talk can begin with the answer. */
  async place(people, callType) {
    if (this.current) return;
    const draft = { id: null, call_type: callType, status: "ringing", initiator: this.#me, participants: people };
    const place = { call: draft, phase: "outgoing" };
    this.#enter(place);
    try {
      const callee_ids = people.map(({ user_id }) => user_id);
      const { call } = await this.#client.initiate({ callee_ids, call_type: callType });
      // Cancelled before the server knew it.
      if (this.current !== place) return void this.#client.cancel(call.id).catch(() => {});
      this.#adopt(call);
      if (this.current === place) this.#joinMedia(call);
    } catch (error) {
      if (this.current === place) this.#finish(error.message);
    }
  }

  /** Answer the call that rings; whatever this page was in is left first. */
  async answer() {
    const [call] = this.incoming.values();
    if (!call) return;
    this.hangUp();
    this.incoming.delete(call.id);
    const place = { call, phase: "call" };
    this.#enter(place);
    const answered = this.#client.answer(call.id);
    this.#joinMedia(call);
    try {
      const reply = await answered;
      if (this.current === place) this.#adopt(reply.call);
    } catch (error) {
      if (this.current === place) this.#finish(error.message);
    }
  }

  decline() {
    const [call] = this.incoming.values();
    if (!call) return;
    this.incoming.delete(call.id);
    this.#request(this.#client.reject(call.id, "declined"));
    this.emit("change");
  }

  /** The way out that fits: cancel what rings, leave a group, end a call of two. */
  hangUp() {
    if (!this.current) return;
    if (this.current.phase === "outgoing") this.cancel();
    else if (isGroup(this.current.call)) this.leave();
    else this.end();
  }

  cancel() {
    this.#goodbye("Call cancelled", (id) => this.#client.cancel(id));
  }

  end() {
    this.#goodbye("Call ended", (id) => this.#client.end(id));
  }

  leave() {
    this.#goodbye("You left the call", (id) => this.#client.leave(id));
  }

  async invite(userId) {
    const { call } = await this.#client.invite(this.current.call.id, [userId]);
    this.#adopt(call);
  }

  /** Say whether I may be recorded. */
  async consent(accept) {
    const { call } = await this.#client.consent(this.current.call.id, accept);
    this.#adopt(call);
  }

  /** Make a voice call a video call, and turn my camera on. */
  async upgrade() {
    const { session } = this;
    const { call } = await this.#client.update(this.current.call.id, "video");
    this.#adopt(call);
    await session?.setCamera(true);
  }

  /** Move a call of mine from another tab or device into this page. */
  takeOver() {
    const call = this.elsewhere;
    this.elsewhere = null;
    this.#enter({ call, phase: "call" });
    this.#joinMedia(call);
  }

  /** Remember what the user chose for a device, for this tab's next join. */
  rememberDevice(source, on) {
    this.#memory.update({ [source]: on });
  }

  #enter(place) {
    this.current = place;
    this.elsewhere = null;
    this.#memory.update({ callId: place.call.id ?? PLACING });
    this.emit("change");
  }

  #joinMedia(call) {
    const { microphone = true, camera = true } = this.#memory.read();
    const video = call.call_type === "video";
    const session = this.#client.joinMedia({ call_id: call.id, video, microphone, camera: video && camera });
    this.session = session;
    session.on("failed", (error) => this.#finish(error.message, true));
    session.on("removed", ({ reason }) => this.#finish(REMOVED[reason] ?? "You were removed from the call"));
    this.emit("session", session);
  }

  #ring(call) {
    const known = this.incoming.has(call.id) || this.current?.call.id === call.id;
    if (known || call.status === "ended" || this.incoming.size >= MAX_INCOMING) return;
    this.incoming.set(call.id, call);
    this.emit("change");
  }

  #follow(type, { call }) {
    if (!call) return;
    if (this.elsewhere?.id === call.id) this.#forgetElsewhere(call);
    if (this.current?.call.id === call.id) this.#adopt(call);
    else if (this.incoming.has(call.id)) this.#rungOn(type, call);
  }

  #forgetElsewhere(call) {
    if (call.status !== "ended" && TAKING_PART.has(myState(call, this.#me))) return;
    this.elsewhere = null;
    this.emit("change");
  }

  /** A ringing call went on: stop ringing as soon as it is no longer for me to answer. */
  #rungOn(type, call) {
    const mine = myState(call, this.#me);
    const taken = type === "answered_elsewhere" || TAKING_PART.has(mine);
    if (!taken && call.status !== "ended" && WAITING.has(mine)) return;
    this.incoming.delete(call.id);
    const text = taken ? "Answered on another device" : missedNotice(call, this.#me);
    if (text) this.emit("notice", { text });
    this.emit("change");
  }

  /** Take the server's word for the current call. */
  #adopt(call) {
    if (!this.current) return;
    const before = this.current.call;
    this.current.call = call;
    this.#memory.update({ callId: call.id });
    if (call.status === "ended") return void this.#finish(endNotice(call, this.#me));
    for (const text of changeNotices(before, call, this.#me)) this.emit("notice", { text });
    if (call.status === "active") this.current.phase = "call";
    if (call.call_type === "video" && this.session) this.#request(this.session.enableVideo());
    this.emit("change");
  }

  /** What goes on for me, told after every connect that lost events. */
  #snapshot(calls) {
    const open = new Map(calls.filter(({ status }) => status !== "ended").map((call) => [call.id, call]));
    for (const id of [...this.incoming.keys()]) if (!open.has(id)) this.incoming.delete(id);
    const { current } = this;
    if (current?.call.id && !open.has(current.call.id)) this.#finish("Call ended");
    for (const call of open.values()) this.#resume(call);
    this.emit("change");
  }

  #resume(call) {
    if (this.current?.call.id === call.id) return this.#adopt(call);
    const mine = myState(call, this.#me);
    if (WAITING.has(mine) && call.initiator !== this.#me) return this.#ring(call);
    if (this.current) return undefined;
    const { callId } = this.#memory.read();
    const ours = callId === call.id || (callId === PLACING && call.initiator === this.#me);
    if (!ours) {
      if (call.status === "active" && TAKING_PART.has(mine)) this.elsewhere = call;
      return undefined;
    }
    if (call.status === "active" && TAKING_PART.has(mine)) this.#continue(call, "call");
    else if (call.status === "ringing" && call.initiator === this.#me) this.#continue(call, "outgoing");
    return undefined;
  }

  #continue(call, phase) {
    this.#enter({ call, phase });
    this.#joinMedia(call);
  }

  /** Leave at once on the screen; the server is told, again after a reconnect if need be. */
  #goodbye(text, tell) {
    const id = this.current?.call.id;
    this.#finish(text);
    if (id) this.#request(tell(id));
  }

  #finish(text, tellServer = false) {
    if (!this.current) return;
    const { call, phase } = this.current;
    const spoke = phase === "call" && call.answered_at;
    const detail = spoke ? clock((this.#now() - toMs(call.answered_at)) / 1000) : "";
    this.current = null;
    this.#memory.update({ callId: null });
    const { session } = this;
    this.session = null;
    session?.leave();
    if (tellServer && call.id) {
      this.#request(phase === "outgoing" ? this.#client.cancel(call.id) : this.#client.leave(call.id));
    }
    this.emit("notice", { text, detail });
    this.emit("change");
  }

  /** The server's time, which the call's own stamps are in. */
  #now() {
    return Date.now() + this.#client.clockOffsetMs;
  }

  /** Seconds since the current call was answered, or null while it was not. */
  get elapsedS() {
    const stamp = this.current?.phase === "call" && this.current.call.answered_at;
    return stamp ? (this.#now() - toMs(stamp)) / 1000 : null;
  }

  /** The people of the current call other than me. */
  get others() {
    return this.current ? others(this.current.call, this.#me) : [];
  }

  #request(promise) {
    promise.catch((error) => this.emit("notice", { text: error.message }));
  }
}
