/**
 * The REST interface of recordings as the page uses it, and their files. Answers come as they are, refusals as an ApiError.
 */
import { toMs } from "./timestamp.js";

const BASE = "/api/v1/recordings";
/** All of a recording in one file. */
export const BUNDLE = "bundle.zip";
/** Tickets are asked for anew so long before they end, and not more often than this: the clock here may be wrong. */
const MARGIN_MS = 30_000;
const LEAST_MS = 60_000;
const UNSEEN = /[\p{Cc}\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/gu;

/** A refusal: `status` and the stable `code` of the server; the message is its sentence. */
export class ApiError extends Error {
  constructor(message, status = 0, code = "") {
    super(message);
    this.name = "ApiError";
    this.status = status;
    this.code = code;
  }
}

export class RecordingsApi {
  #token;

  constructor(token) {
    this.#token = token;
  }

  /** A page of recordings, the newest first; empty filters are left out. */
  list(filters) {
    const query = new URLSearchParams(Object.entries(filters).filter(([, value]) => value));
    return this.#ask("GET", query.size ? `?${query}` : "");
  }

  get(id) {
    return this.#ask("GET", of(id));
  }

  play(id) {
    return this.#ask("POST", `${of(id)}/play`);
  }

  verify(id) {
    return this.#ask("POST", `${of(id)}/verify`);
  }

  hold(id, isHeld, reason) {
    return this.#ask("POST", `${of(id)}/hold`, { hold: isHeld, reason });
  }

  erase(id, reason) {
    return this.#ask("DELETE", of(id), { reason });
  }

  audit(id) {
    return this.#ask("GET", `${of(id)}/audit`);
  }

  /** A file as a Blob, for keeping; BUNDLE is all of it. */
  async download(id, name) {
    const path = name === BUNDLE ? "/export" : `/files/${encodeURIComponent(name)}`;
    return (await this.#send("GET", of(id) + path)).blob();
  }

  async #ask(method, path, body) {
    return parse(await (await this.#send(method, path, body)).text());
  }

  async #send(method, path, body) {
    const headers = { Authorization: `Bearer ${this.#token}` };
    if (body) headers["Content-Type"] = "application/json";
    return answered(fetch(BASE + path, { method, headers, body: body && JSON.stringify(body) }));
  }
}

/**
 * JSON whose texts can be shown beside others. Names come from strangers, and a character that turns the direction of
 * writing (Unicode UAX 9) would turn the sentence around it, up to what is to be erased.
 */
function parse(text) {
  return JSON.parse(text, (_key, value) => (typeof value === "string" ? value.replace(UNSEEN, "\ufffd") : value));
}

const of = (id) => `/${encodeURIComponent(id)}`;

/** The response of a request that went well; everything else is an ApiError. */
async function answered(request) {
  let response;
  try {
    response = await request;
  } catch {
    throw new ApiError("The server cannot be reached. Check your network and try again.");
  }
  if (response.ok) return response;
  const problem = await response.text().then(parse).catch(() => ({}));
  const words = problem.detail || problem.title || `The server refused with ${response.status}.`;
  throw new ApiError(words, response.status, problem.code ?? "");
}

/** Addresses of a recording's files that can be read without a token for some minutes; then they are asked for anew. */
export class Tickets {
  #api;
  #id;
  #urls = null;
  #freshUntil = 0;

  constructor(api, id) {
    this.#api = api;
    this.#id = id;
  }

  /** The address of a file. `refused` is one that was not taken any more: another is given then. */
  async url(name, refused = null) {
    if (Date.now() > this.#freshUntil) this.#renew();
    let urls = await this.#urls;
    if (refused && urls.get(name) === refused) {
      this.#renew();
      urls = await this.#urls;
    }
    if (!urls.has(name)) throw new ApiError(`The recording has no file ${name}.`, 404, "file_not_found");
    return urls.get(name);
  }

  /** Read a whole file; a ticket that is over is asked for once more. */
  async read(name) {
    const url = await this.url(name);
    try {
      return await answered(fetch(url));
    } catch (error) {
      if (error.status !== 401) throw error;
      return answered(fetch(await this.url(name, url)));
    }
  }

  async manifest() {
    return parse(await (await this.read("manifest.json")).text());
  }

  /** The event log; a line that is no event is left out, the check of the recording tells of it. */
  async events() {
    const lines = (await (await this.read("events.jsonl")).text()).split("\n");
    return lines.flatMap((line) => {
      try {
        const event = parse(line);
        return typeof event?.type === "string" && typeof event.data === "object" && event.data ? [event] : [];
      } catch {
        return [];
      }
    });
  }

  /** Read a file of sound; returns the bytes of one that a browser plays at the right times. */
  async sound(name) {
    return withSilence(new Uint8Array(await (await this.read(name)).arrayBuffer()));
  }

  #renew() {
    // Whoever asks meanwhile waits for the same answer.
    this.#freshUntil = Infinity;
    this.#urls = this.#ask();
  }

  async #ask() {
    try {
      const { expires_at, files } = await this.#api.play(this.#id);
      this.#freshUntil = Math.max(toMs(expires_at) - MARGIN_MS, Date.now() + LEAST_MS);
      return new Map(files.map(({ name, url }) => [name, url]));
    } catch (error) {
      this.#freshUntil = 0;
      throw error;
    }
  }
}

// Sound

/** Matroska elements (RFC 9559) that are gone into, and those that are read. */
const ENTERED = new Set([0x18538067, 0x1549a966, 0x1f43b675, 0xa0]);
const SCALE = 0x2ad7b1;
const TRACKS = 0x1654ae6b;
const CLUSTER_TIME = 0xe7;
const BLOCKS = new Set([0xa3, 0xa1]);
const LACING = 0x06;
/** Twenty milliseconds of nothing, in Opus. */
const SILENCE = Uint8Array.of(0xf8, 0xff, 0xfe);
const SILENCE_MS = 20;
/** Packets that come so much before their turn are those of a sender that repeats itself. */
const EARLY_MS = 60;
const CLUSTER_MS = 1_000;

/**
 * The bytes of an Opus file in Matroska with silence wherever nothing was received. A browser plays the packets of a
 * file one after the other, whatever their times say: what comes after a gap would come too early.
 */
export function withSilence(bytes) {
  const { tracks, packets } = readPackets(bytes);
  if (!tracks || packets.length === 0) return bytes;
  const played = [];
  let at = packets[0].at;
  for (const packet of packets) {
    for (; packet.at - at >= SILENCE_MS; at += SILENCE_MS) played.push({ at, data: SILENCE });
    if (at - packet.at > EARLY_MS) continue;
    played.push({ at, data: packet.data });
    at += opusMs(packet.data);
  }
  return writeFile(tracks, played, at);
}

/** The track entries as they stand there, and every packet as {at, data}; what is cut off at the end is left out. */
function readPackets(bytes) {
  const found = { tracks: null, packets: [] };
  let scale = 1;
  let clusterAt = 0;
  for (const { id, from, to } of elementsOf(bytes)) {
    const data = bytes.subarray(from, to);
    if (id === SCALE) scale = unsigned(data) / 1e6;
    else if (id === TRACKS) found.tracks = data;
    else if (id === CLUSTER_TIME) clusterAt = unsigned(data);
    else if (BLOCKS.has(id)) {
      const head = vintLength(data[0]);
      if (data[head + 2] & LACING) return { tracks: null, packets: [] };
      const offset = new DataView(data.buffer, data.byteOffset + head, 2).getInt16(0);
      found.packets.push({ at: (clusterAt + offset) * scale, data: data.subarray(head + 3) });
    }
  }
  return found;
}

function* elementsOf(bytes) {
  let at = 0;
  while (at < bytes.length) {
    const idLength = vintLength(bytes[at]);
    const sizeLength = vintLength(bytes[at + idLength]);
    const from = at + idLength + sizeLength;
    if (from > bytes.length) return;
    const id = unsigned(bytes.subarray(at, at + idLength));
    // The first byte also tells how many there are.
    const size = (bytes[at + idLength] & (0xff >> sizeLength)) * 256 ** (sizeLength - 1) + unsigned(bytes.subarray(at + idLength + 1, from));
    at = ENTERED.has(id) ? from : from + size;
    if (at > bytes.length) return;
    if (!ENTERED.has(id)) yield { id, from, to: at };
  }
}

const vintLength = (first) => Math.clz32(first) - 23;
const unsigned = (data) => data.reduce((value, byte) => value * 256 + byte, 0);

/** How long a packet sounds (RFC 6716 section 3.1). */
function opusMs(data) {
  const config = data[0] >> 3;
  const frames = [1, 2, 2, data[1] & 63][data[0] & 3];
  if (config < 12) return frames * [10, 20, 40, 60][config & 3];
  return frames * (config < 16 ? [10, 20][config & 1] : [2.5, 5, 10, 20][config & 3]);
}

function writeFile(tracks, packets, durationMs) {
  const duration = new DataView(new ArrayBuffer(8));
  duration.setFloat64(0, durationMs);
  const clusters = Map.groupBy(packets, ({ at }) => Math.floor(at / CLUSTER_MS));
  const clusterOf = ([second, inside]) => made(0x1f43b675,
    made(CLUSTER_TIME, big(second * CLUSTER_MS, 4)),
    ...inside.map(({ at, data }) => made(0xa3, Uint8Array.of(0x81), big(Math.round(at - second * CLUSTER_MS), 2), Uint8Array.of(0x80), data)));
  const parts = [
    made(0x1a45dfa3, made(0x4282, new TextEncoder().encode("matroska"))),
    made(0x18538067,
      made(0x1549a966, made(SCALE, big(1_000_000, 3)), made(0x4489, new Uint8Array(duration.buffer))),
      made(TRACKS, tracks),
      ...[...clusters].map(clusterOf)),
  ];
  const joined = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  parts.reduce((at, part) => {
    joined.set(part, at);
    return at + part.length;
  }, 0);
  return joined;
}

/** An element: its id, its length in eight bytes, and what is in it. */
function made(id, ...parts) {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const name = big(id, id > 0xffffff ? 4 : id > 0xffff ? 3 : id > 0xff ? 2 : 1);
  const bytes = new Uint8Array(name.length + 8 + length);
  bytes.set(name);
  bytes.set(big(length, 8), name.length);
  bytes[name.length] = 0x01;
  let at = name.length + 8;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

/** A number in so many bytes, the highest first. */
function big(value, length) {
  return Uint8Array.from({ length }, (_, index) => Math.floor(value / 256 ** (length - 1 - index)) % 256);
}
