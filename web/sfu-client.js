/**
 * The browser's side of protocol v1: one WebSocket per page for calls, presence and media signalling.
 *
 *   const client = new SfuClient({ url: "wss://calls.example/ws", token: async () => jwt });
 *   client.on("call.incoming", ({ call }) => …);
 *   await client.connect();
 *   const { call } = await client.initiate({ callee_ids: ["bob"], call_type: "video" });
 *   const media = client.joinMedia({ call_id: call.id });
 *
 * Every server event is emitted under its own type with its `data`. Own events: `state` {state, code?, reason?}.
 */
import { Emitter } from "./emitter.js";
import { MediaSession } from "./media-session.js";
import { toMs } from "./timestamp.js";

/** Waits before the attempts to reconnect; the last one repeats. */
const BACKOFF_MS = [0, 300, 1200, 2700, 4800, 7000];
/** Close codes after which trying again cannot help: not authenticated, not allowed, replaced. */
const FINAL_CLOSE_CODES = new Set([4401, 4403, 4409]);
/** Close codes of a server that asks for less: the next attempt starts further up the backoff. */
const CROWDED_CLOSE_CODES = new Set([1013, 4429]);
const CROWDED_ATTEMPT = 3;
const REQUEST_TIMEOUT_MS = 10_000;
const CONNECT_TIMEOUT_MS = 10_000;
/** A socket over which nothing comes for this long after a ping is dead, whatever the browser believes. */
const PONG_TIMEOUT_MS = 8_000;
const PONG_TIMEOUT_AFTER_NETWORK_CHANGE_MS = 3_000;
/** More unanswered requests than this mean a fault of the page: further ones are refused. */
const MAX_PENDING_REQUESTS = 64;

/** What a request is refused with; `retryable` says whether the same request may succeed later. */
export class SfuError extends Error {
  constructor(code, message, retryable = false) {
    super(message);
    this.name = "SfuError";
    this.code = code;
    this.retryable = retryable;
  }
}

export class SfuClient extends Emitter {
  /** `connecting | connected | reconnecting | closed`, or null before `connect()`. */
  state = null;
  /** The data of the newest `connected` frame: user_id, session_id, ice_servers, … */
  info = null;
  /** What to add to this machine's clock to have the server's. */
  clockOffsetMs = 0;
  /** The one media session of this socket, if any. */
  media = null;

  #url;
  #token;
  #socket = null;
  /** Whether the `connected` frame of the present socket has come. */
  #ready = false;
  /** Highest durable event seen; what a resume continues from. */
  #seq = 0;
  #attempt = 0;
  #lastRequest = 0;
  /** Requests without a reply, by id, oldest first. */
  #pending = new Map();
  #retryTimer = null;
  #connectTimer = null;
  #pingTimer = null;
  #pongTimer = null;
  #firstConnect = null;
  #onNetworkChange = () => this.networkChanged();

  constructor({ url, token }) {
    super();
    this.#url = url;
    this.#token = token;
  }

  /** Open the socket; resolves with the first `connected` data, rejects when the server refuses for good. */
  connect() {
    if (this.#firstConnect) return this.#firstConnect.promise;
    this.#firstConnect = deferred();
    globalThis.addEventListener?.("online", this.#onNetworkChange);
    this.#setState("connecting");
    this.#open();
    return this.#firstConnect.promise;
  }

  /** Close for good: media first, then the socket. */
  close() {
    this.#finish(1000, "closed by the page");
  }

  /** Send a request; resolves with the reply's data, rejects with an SfuError. */
  request(type, data = {}, timeoutMs = REQUEST_TIMEOUT_MS) {
    const refusal = this.#refusal(type);
    if (refusal) return Promise.reject(refusal);
    const id = `c${++this.#lastRequest}`;
    return new Promise((resolve, reject) => {
      const expire = () => this.#settle(id, null, new SfuError("timeout", "The server did not answer in time.", true));
      const timer = setTimeout(expire, timeoutMs);
      const frame = JSON.stringify({ type, id, data });
      this.#pending.set(id, { type, frame, resolve, reject, timer });
      if (this.#ready) this.#socket.send(frame);
    });
  }

  initiate({ callee_ids, call_type, conversation_id, ring_timeout_s, metadata }) {
    const idempotency_key = crypto.randomUUID?.();
    return this.request("call.initiate", {
      callee_ids, call_type, conversation_id, ring_timeout_s, metadata, idempotency_key,
    });
  }

  answer(call_id) {
    return this.request("call.answer", { call_id });
  }

  reject(call_id, reason) {
    return this.request("call.reject", { call_id, reason });
  }

  cancel(call_id) {
    return this.request("call.cancel", { call_id });
  }

  end(call_id) {
    return this.request("call.end", { call_id });
  }

  leave(call_id) {
    return this.request("call.leave", { call_id });
  }

  invite(call_id, user_ids) {
    return this.request("call.invite", { call_id, user_ids });
  }

  /** Say whether one may be recorded, where `recording.consent` is `require_ack`. */
  consent(call_id, accept) {
    return this.request("call.consent", { call_id, accept });
  }

  /** Turn a voice call into a video call or back, in mid-call. */
  update(call_id, call_type) {
    return this.request("call.update", { call_id, call_type });
  }

  watchPresence(user_ids) {
    return this.request("presence.watch", { user_ids });
  }

  /** Join the media of a call or a room. One session per socket: a second join ends the first. */
  joinMedia(options) {
    this.media?.leave();
    this.media = new MediaSession(this, options);
    return this.media;
  }

  /** Tell the client that addresses may have changed: checks the socket now and lets media find a new path. */
  networkChanged() {
    if (this.#ready) {
      this.#ping(PONG_TIMEOUT_AFTER_NETWORK_CHANGE_MS);
      this.media?.networkChanged();
    } else if (this.#retryTimer) {
      this.#attempt = 0;
      this.#retry();
    }
  }

  #refusal(type) {
    if (this.state === null || this.state === "closed") return new SfuError("closed", "The connection is closed.");
    if (this.#pending.size >= MAX_PENDING_REQUESTS) {
      return new SfuError("too_many_requests", "Too many requests are waiting for an answer.", true);
    }
    // Media messages belong to the socket they were made for; the session repeats them itself after a reconnect.
    if (!this.#ready && type.startsWith("media.")) return connectionLost();
    return null;
  }

  async #open() {
    let jwt;
    try {
      jwt = typeof this.#token === "function" ? await this.#token() : this.#token;
    } catch {
      return this.#retry();
    }
    if (this.state === "closed") return undefined;
    const socket = new WebSocket(this.#address(), ["sfu.v1", `bearer.${jwt}`]);
    this.#socket = socket;
    this.#connectTimer = setTimeout(() => this.#drop(socket), CONNECT_TIMEOUT_MS);
    socket.onmessage = ({ data }) => this.#receive(data);
    socket.onclose = ({ code, reason }) => this.#lost(socket, code, reason);
    return undefined;
  }

  #address() {
    const url = new URL(this.#url, globalThis.location?.href);
    url.protocol = url.protocol.replace("http", "ws");
    if (this.info?.resume_token) {
      url.searchParams.set("resume", this.info.resume_token);
      url.searchParams.set("seq", String(this.#seq));
    }
    return url.href;
  }

  #receive(text) {
    clearTimeout(this.#pongTimer);
    const { type, seq, re, data = {} } = JSON.parse(text);
    if (type === "reply") this.#settle(re, data);
    else if (type === "error" && re) this.#settle(re, null, new SfuError(data.code, data.message, data.retryable));
    else if (type === "connected") this.#welcome(data);
    else if (type === "ping") this.#send("pong", data);
    else this.#deliver(type, seq, data);
  }

  /** Acknowledge after the listeners ran, so that a page that dies in between is told again. */
  #deliver(type, seq, data) {
    const seen = seq !== undefined && seq <= this.#seq;
    if (!seen) {
      if (seq !== undefined) this.#seq = seq;
      this.emit(type, data);
    }
    if (seq !== undefined) this.#send("ack", { seq });
  }

  #welcome(info) {
    clearTimeout(this.#connectTimer);
    this.info = info;
    this.clockOffsetMs = toMs(info.server_time) - Date.now() || 0;
    this.#ready = true;
    this.#attempt = 0;
    // After a resume the events from #seq on are still to come; otherwise counting starts at the server's number.
    if (!info.resumed) this.#seq = info.seq ?? 0;
    this.#pingTimer = setInterval(() => this.#ping(PONG_TIMEOUT_MS), (info.ping_interval_s ?? 30) * 1000);
    for (const { frame } of this.#pending.values()) this.#socket.send(frame);
    this.#setState("connected");
    this.emit("connected", info);
    this.#firstConnect.resolve(info);
  }

  #settle(id, data, error) {
    const pending = this.#pending.get(id);
    if (!pending) return;
    this.#pending.delete(id);
    clearTimeout(pending.timer);
    if (error) pending.reject(error);
    else pending.resolve(data);
  }

  /** Unanswered call and presence requests are idempotent and go out again on the next socket. */
  #rejectPending(belongs, error) {
    for (const [id, { type }] of [...this.#pending]) if (belongs(type)) this.#settle(id, null, error);
  }

  #send(type, data) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify({ type, data }));
  }

  #ping(patienceMs) {
    const socket = this.#socket;
    this.#send("ping", {});
    clearTimeout(this.#pongTimer);
    this.#pongTimer = setTimeout(() => this.#drop(socket), patienceMs);
  }

  /** Give a silent socket up without waiting for its close handshake, which would never come. */
  #drop(socket) {
    socket.onclose = null;
    socket.onmessage = null;
    socket.close();
    this.#lost(socket, 1006, "no answer");
  }

  #lost(socket, code, reason) {
    if (socket !== this.#socket) return;
    this.#stopTimers();
    this.#socket = null;
    this.#ready = false;
    if (FINAL_CLOSE_CODES.has(code)) return this.#finish(code, reason);
    this.#rejectPending((type) => type.startsWith("media."), connectionLost());
    if (CROWDED_CLOSE_CODES.has(code)) this.#attempt = Math.max(this.#attempt, CROWDED_ATTEMPT);
    if (this.info) this.#setState("reconnecting", code, reason);
    this.#retry();
  }

  /** The jitter keeps the users of a restarted server from coming back in one instant. */
  #retry() {
    if (this.state === "closed") return;
    clearTimeout(this.#retryTimer);
    const base = BACKOFF_MS[Math.min(this.#attempt, BACKOFF_MS.length - 1)];
    const jitter = Math.random() * Math.min(1000, 100 + base / 2);
    this.#attempt += 1;
    this.#retryTimer = setTimeout(() => {
      this.#retryTimer = null;
      this.#open();
    }, base + jitter);
  }

  #finish(code, reason) {
    if (this.state === "closed") return;
    this.#stopTimers();
    globalThis.removeEventListener?.("online", this.#onNetworkChange);
    this.media?.leave();
    this.media = null;
    if (this.#socket) {
      this.#socket.onclose = null;
      this.#socket.onmessage = null;
      this.#socket.close(1000);
    }
    this.#socket = null;
    this.#ready = false;
    const error = new SfuError("closed", reason || "The server closed the connection.");
    this.#rejectPending(() => true, error);
    this.#firstConnect?.promise.catch(() => {});
    this.#firstConnect?.reject(error);
    this.#setState("closed", code, reason);
    this.silence();
  }

  #stopTimers() {
    clearTimeout(this.#retryTimer);
    clearTimeout(this.#connectTimer);
    clearTimeout(this.#pongTimer);
    clearInterval(this.#pingTimer);
    this.#retryTimer = null;
  }

  #setState(state, code, reason) {
    if (this.state === state) return;
    this.state = state;
    this.emit("state", { state, code, reason });
  }
}

function connectionLost() {
  return new SfuError("connection_lost", "The connection to the server was lost.", true);
}

/** A promise with its resolve and reject beside it (Promise.withResolvers is younger than many browsers in use). */
function deferred() {
  const parts = {};
  parts.promise = new Promise((resolve, reject) => Object.assign(parts, { resolve, reject }));
  return parts;
}
