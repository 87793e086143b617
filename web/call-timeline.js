/**
 * A recording as a picture of its time. Pure: manifest and event log in; lanes, files and words out.
 *
 * A lane is the call, a person, or one source of a person. Its items are {kind, from, to, words} in milliseconds of
 * the recording; those with `from === to` are moments.
 */
import { clock } from "./call-words.js";

/** Sources in the order of their lanes, and what people call them. */
const SOURCES = { microphone: "Microphone", camera: "Camera", screen: "Screen", screen_audio: "Sound of the screen" };
/** Items of a kind that are closer than this part of the whole cannot be told apart: they become one. */
const FINEST = 1 / 400;
/** Events that have their own place in a lane, or none; all others are told as they are called. */
const PLACED = new Set([
  "checkpoint", "sender_report", "source_started", "source_ended", "segment_started", "segment_ended", "track_published",
  "track_unpublished", "track_muted", "participant_joined", "participant_left", "speakers", "loss", "size_changed",
  "recording_started", "recording_ended", "paused", "resumed", "consent", "consent_asked",
]);
const CONSENT = {
  none: "nobody was told", notify: "everybody in the call was told", require_ack: "only who accepted is recorded",
};
const END_REASONS = {
  call_ended: "the call ended",
  stopped: "somebody stopped it",
  server_stopped: "the server was stopped",
  server_gone: "the server failed",
  crash: "the recorder failed, and it was sealed afterwards",
};

export function endWords(reason) {
  return END_REASONS[reason] ?? String(reason ?? "").replaceAll("_", " ");
}

export function sourceWords(source) {
  return SOURCES[source] ?? String(source);
}

/** What is missing, each kind in words. */
export function lossWords({ packets, broken_frames, frames_before_keyframe, dropped_before_recorder }) {
  return [
    packets && `${count(packets, "packet")} lost`,
    broken_frames && `${count(broken_frames, "frame")} broken`,
    frames_before_keyframe && `${count(frames_before_keyframe, "picture")} before a keyframe left out`,
    dropped_before_recorder && `${count(dropped_before_recorder, "packet")} did not reach the recorder in time`,
  ].filter(Boolean);
}

/** Milliseconds of a recording as mm:ss, or h:mm:ss. */
export function timeWords(ms) {
  return clock(ms / 1000);
}

/**
 * Everything that the page shows of a recording: {durationMs, pauses, people, pieces, lanes}. Pieces are the files that can
 * be played; in their `gaps` there is nothing in them.
 */
export function callTimeline(manifest, events) {
  const pieces = filePieces(manifest, events);
  const durationMs = Math.max(manifest.duration_ms ?? 0, ...pieces.map(({ to }) => to), 1);
  const pauses = (manifest.pauses ?? []).map(({ from_ms, to_ms, reason }) => (
    { from: from_ms, to: to_ms ?? durationMs, reason: reason ?? "" }));
  const people = peopleOf(manifest, events, pieces);
  const lanes = [callLane(manifest, events, pauses, durationMs)];
  for (const person of people.values()) lanes.push(...personLanes(person, events, pieces, pauses, durationMs));
  for (const piece of pieces) {
    const { items } = lanes.find(({ key }) => key === laneKey(piece.userId, piece.source));
    piece.gaps = [...pauses, ...items.filter(({ kind }) => kind === "muted")];
  }
  return { durationMs, pauses, people: [...people.values()], pieces, lanes };
}

export const laneKey = (userId, source) => `${userId} ${source}`;

/** The item of a kind in a lane that holds at a moment. */
export function itemAt(lane, kind, ms) {
  return lane?.items.find((item) => item.kind === kind && item.from <= ms && ms < item.to);
}

/** Moments for the axis: round ones, `most` at the most. */
export function ticks(durationMs, most) {
  const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400].map((s) => s * 1000);
  const step = steps.find((ms) => durationMs / ms <= most) ?? durationMs;
  return Array.from({ length: Math.floor(durationMs / step) + 1 }, (_, index) => index * step);
}

// Who

/** user_id → {userId, name, participants: ids of each time that they came, tracks: track_id → source}. */
function peopleOf(manifest, events, pieces) {
  const people = new Map();
  const byParticipant = new Map();
  const person = (id, name, participantId) => {
    const userId = String(id ?? "");
    if (!people.has(userId)) people.set(userId, { userId, name: userId, participants: new Set(), tracks: new Map() });
    const found = people.get(userId);
    if (name) found.name = name;
    if (participantId) {
      found.participants.add(participantId);
      byParticipant.set(participantId, found);
    }
    return found;
  };
  for (const { type, data } of events) {
    if (type === "source_started") {
      person(data.user_id, data.user_name, data.participant_id).tracks.set(data.track_id, data.source);
    } else if (type === "participant_joined" && data.participant) {
      const { user_id, name, participant_id, tracks } = data.participant;
      const found = person(user_id, name, participant_id);
      for (const track of tracks ?? []) found.tracks.set(track.track_id, track.source);
    } else if (type === "consent" || type === "consent_asked") {
      person(data.user_id);
    } else if (type === "track_published") {
      byParticipant.get(data.participant_id)?.tracks.set(data.track?.track_id, data.track?.source);
    }
  }
  for (const piece of pieces) person(piece.userId, piece.userName, piece.participantId).tracks.set(piece.trackId, piece.source);
  for (const userId of events.find(({ type }) => type === "recording_started")?.data.participants ?? []) person(userId);
  return people;
}

// Lanes

function callLane(manifest, events, pauses, durationMs) {
  const begun = events.find(({ type }) => type === "recording_started")?.data ?? {};
  const items = [
    moment("began", 0, `The recording began, ${askedWords(begun)}`),
    moment("consent", 0, `Consent: ${consentWords(begun.consent)}`),
    moment("ended", durationMs, `The recording ended: ${endWords(manifest.end_reason)}`),
  ];
  for (const { from, to, reason } of pauses) {
    const who = events.find((event) => event.type === "paused" && event.t_ms === from)?.data.by;
    items.push(span("pause", from, to, `Paused${who ? ` by ${who}` : ""}, nothing was recorded: ${reason || "no reason was given"}`));
  }
  const { dropped_before_recorder } = manifest.losses ?? {};
  if (dropped_before_recorder) items.push(moment("loss", durationMs, lossWords({ dropped_before_recorder }).join("")));
  for (const what of manifest.damage ?? []) items.push(moment("damage", durationMs, `Damage: ${what}`));
  for (const { type, t_ms, data } of events.filter((event) => !PLACED.has(event.type))) {
    const who = data.user_id ?? data.by;
    items.push(moment("other", t_ms, `${type.replaceAll("_", " ")}${who ? `: ${who}` : ""}`));
  }
  return { key: "call", kind: "call", label: "Call", items: inOrder(items) };
}

function askedWords({ by, reason }) {
  const who = by === "policy" ? "as every call here" : `asked for by ${by ?? "nobody known"}`;
  return reason ? `${who}: ${reason}` : who;
}

export function consentWords(consent) {
  return CONSENT[consent] ?? String(consent || "nothing is known");
}

function personLanes(person, events, pieces, pauses, durationMs) {
  const { userId, name } = person;
  const about = { userId, name };
  const items = [...presence(person, events, durationMs), ...speech(person, events, durationMs), ...answers(person, events)];
  const lanes = [{ ...about, key: userId, kind: "person", label: name, items }];
  const sources = new Set(person.tracks.values());
  const known = Object.keys(SOURCES);
  const place = (source) => (known.includes(source) ? known.indexOf(source) : known.length);
  for (const source of [...sources].sort((one, other) => place(one) - place(other))) {
    const mine = pieces.filter((piece) => piece.userId === userId && piece.source === source);
    const track = { person, source, what: `${sourceWords(source)} of ${name}` };
    const lane = { ...about, key: laneKey(userId, source), kind: "track", source, label: sourceWords(source) };
    lanes.push({ ...lane, items: [
      ...recorded(mine, track, pauses), ...mutes(track, events, durationMs), ...losses(track, events, durationMs),
      ...sizes(mine, track, events),
    ] });
  }
  if (sources.size === 0) items.push(span("nothing", 0, durationMs, `Nothing of ${name} was recorded`));
  for (const lane of lanes) lane.items = inOrder(lane.items);
  return lanes;
}

/** Joins, leaves, and the time between. Who was there when the recording began was not told to join. */
function presence({ participants, name }, events, durationMs) {
  const items = [];
  const since = new Map();
  const joined = new Set(events.filter(({ type }) => type === "participant_joined").map(({ data }) => data.participant?.participant_id));
  for (const id of participants) if (!joined.has(id)) since.set(id, 0);
  const gone = (id, at) => {
    if (since.has(id)) items.push(span("present", since.get(id), at, `${name} was in the call`));
    since.delete(id);
  };
  for (const { type, t_ms, data } of events) {
    const id = data.participant?.participant_id ?? data.participant_id;
    if (!participants.has(id)) continue;
    if (type === "participant_joined") {
      since.set(id, t_ms);
      items.push(moment("joined", t_ms, `${name} joined`));
    } else if (type === "participant_left") {
      gone(id, t_ms);
      items.push(moment("left", t_ms, `${name} left`));
    }
  }
  for (const id of [...since.keys()]) gone(id, durationMs);
  return items;
}

function answers({ userId, name }, events) {
  const mine = events.filter(({ type, data }) => (type === "consent" || type === "consent_asked") && data.user_id === userId);
  return mine.map(({ type, t_ms, data }) => (
    moment("consent", t_ms, type === "consent" ? `${name} ${data.answer} being recorded` : `${name} was asked whether this may be recorded`)));
}

function speech({ participants, name }, events, durationMs) {
  const spans = [];
  let since = null;
  for (const { type, t_ms, data } of events) {
    if (type !== "speakers") continue;
    const speaks = (data.speakers ?? []).some(({ participant_id }) => participants.has(participant_id));
    if (speaks) since ??= t_ms;
    else if (since !== null) {
      spans.push({ from: since, to: t_ms });
      since = null;
    }
  }
  if (since !== null) spans.push({ from: since, to: durationMs });
  return merged(spans, durationMs).map(({ from, to }) => span("spoke", from, to, `${name} spoke`));
}

function recorded(pieces, { what }, pauses) {
  return pieces.flatMap(({ name, codec, size, from, to }) => {
    const picture = size ? `, ${size.join(" × ")}` : "";
    const words = `${what} recorded in ${name} (${String(codec).toUpperCase()}${picture})`;
    return without({ from, to }, pauses).map((part) => span("recorded", part.from, part.to, words));
  });
}

/** What is left of a span between the pauses. */
function without(whole, pauses) {
  let parts = [whole];
  for (const pause of pauses) {
    parts = parts.flatMap(({ from, to }) => [{ from, to: Math.min(to, pause.from) }, { from: Math.max(from, pause.to), to }]);
    parts = parts.filter(({ from, to }) => from < to);
  }
  return parts;
}

function mutes({ person, source, what }, events, durationMs) {
  const items = [];
  const since = new Map();
  const set = (id, isMuted, at) => {
    if (isMuted && !since.has(id)) since.set(id, at);
    if (!isMuted && since.has(id)) {
      items.push(span("muted", since.get(id), at, `${what} was off`));
      since.delete(id);
    }
  };
  const isMine = (id) => person.tracks.get(id) === source;
  for (const { type, t_ms, data } of events) {
    if (type === "track_muted" && isMine(data.track_id)) set(data.track_id, data.muted, t_ms);
    if (type === "track_published" && isMine(data.track?.track_id)) set(data.track.track_id, data.track.muted, t_ms);
    if (type === "track_unpublished") set(data.track_id, false, t_ms);
    if (type === "participant_joined") {
      for (const { track_id, muted } of data.participant?.tracks ?? []) if (isMine(track_id)) set(track_id, muted, t_ms);
    }
    if (type === "participant_left" && person.participants.has(data.participant_id)) {
      for (const id of [...since.keys()]) set(id, false, t_ms);
    }
  }
  for (const id of [...since.keys()]) set(id, false, durationMs);
  return items;
}

function losses({ person, source, what }, events, durationMs) {
  const told = events.filter(({ type, data }) => type === "loss" && person.tracks.get(data.track_id) === source);
  const spans = told.map(({ t_ms, data }) => ({ ...data, from: t_ms, to: t_ms }));
  return merged(spans, durationMs, (one, other) => {
    for (const name of ["packets", "broken_frames", "frames_before_keyframe"]) one[name] = (one[name] ?? 0) + (other[name] ?? 0);
  }).map((loss) => span("loss", loss.from, loss.to, `${what}: ${lossWords(loss).join(", ")}`));
}

function sizes(pieces, { what }, events) {
  const names = new Set(pieces.map(({ name }) => name));
  const told = events.filter(({ type, data }) => type === "size_changed" && names.has(data.file));
  return told.map(({ t_ms, data }) => moment("size", t_ms, `${what} is ${data.to?.join(" × ")} from here on`));
}

function span(kind, from, to, what) {
  const [begin, end] = [timeWords(from), timeWords(to)];
  return { kind, from, to, words: begin === end ? `${what}, at ${begin}` : `${what}, ${begin} to ${end}` };
}
const moment = (kind, at, what) => span(kind, at, at, what);
const count = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;
const inOrder = (items) => items.sort((one, other) => one.from - other.from);

/** Spans with those joined that are too close to be seen apart. */
function merged(spans, durationMs, join = () => {}) {
  const found = [];
  for (const next of spans) {
    const last = found.at(-1);
    if (last && next.from - last.to < durationMs * FINEST) {
      last.to = next.to;
      join(last, next);
    } else found.push({ ...next });
  }
  return found;
}

// Files

/** Each file that can be played: from when to when, and the line from the recording's time to the file's own. */
function filePieces(manifest, events) {
  const files = (manifest.files ?? []).filter(({ is_empty, kind }) => !is_empty && (kind === "audio" || kind === "video"));
  const lines = fileLines(files, events);
  return files.map((file) => {
    const { startMs, rate } = lines.get(file.name);
    // One that a crash cut off has no length: it ends where the recording ends.
    const length = file.duration_ms ?? Math.max(0, manifest.duration_ms - startMs);
    return {
      name: file.name, kind: file.kind, codec: file.codec, size: file.size, source: file.source, trackId: file.track_id,
      participantId: file.participant_id, userId: file.user_id ?? "", userName: file.user_name,
      startMs, rate, from: Math.max(0, startMs), to: startMs + length * rate,
    };
  });
}

/** So many reports tell the real rate of a sender's media clock, over no less than this; no oscillator is off by more. */
const REPORTS_FOR_RATE = 4;
const LEAST_SPAN_S = 8;
const MAX_SKEW = 0.001;
/** A sender's clock that leads so far away from when its frames came is not believed. */
const MAX_DISAGREEMENT_S = 2;
const NTP_FRACTION = 2 ** 32;

/**
 * file name → {startMs, rate}: when its first frame was captured, and milliseconds for each of its media time. By the
 * sender reports, as sfu/recorder/timeline.py does it, so that lips and voice meet; without them by when it came.
 */
function fileLines(files, events) {
  const reports = Map.groupBy(events.filter(({ type }) => type === "sender_report").map(({ data }) => (
    { ssrc: data.ssrc, ntp: data.ntp / NTP_FRACTION, rtp: data.rtp_timestamp, heard: data.heard_ms / 1000 })), ({ ssrc }) => ssrc);
  const participants = Map.groupBy(files, ({ participant_id }) => participant_id);
  return new Map(files.map((file) => {
    const arrived = file.start_ms / 1000;
    const ssrcs = new Set(participants.get(file.participant_id).map(({ ssrc }) => ssrc));
    const delays = [...ssrcs].flatMap((ssrc) => reports.get(ssrc) ?? []).map(({ heard, ntp }) => heard - ntp);
    const line = senderLine(file, reports.get(file.ssrc) ?? [], arrived);
    const start = line ? line.start + Math.min(...delays) : arrived;
    const isLikely = line && Math.abs(start - arrived) < MAX_DISAGREEMENT_S;
    return [file.name, isLikely ? { startMs: start * 1000, rate: line.rate } : { startMs: file.start_ms, rate: 1 }];
  }));
}

/** The sender's clock at the first frame, and its seconds for each second of media time. */
function senderLine({ rtp_start, clock_rate }, reports, arrived) {
  if (reports.length === 0) return null;
  // The report next to the file's beginning is less than half a turn of the 32 bits away from it.
  const near = reports.reduce((best, one) => (Math.abs(one.heard - arrived) < Math.abs(best.heard - arrived) ? one : best));
  const turn = NTP_FRACTION / clock_rate;
  const points = reports.map((report) => {
    const passed = ((report.rtp - near.rtp) | 0) / clock_rate;
    const turns = Math.round((report.ntp - near.ntp - passed) / turn);
    return { media: ((near.rtp - rtp_start) | 0) / clock_rate + passed + turn * turns, ntp: report.ntp - near.ntp };
  });
  const mean = (of) => points.reduce((sum, point) => sum + of(point), 0) / points.length;
  const media = mean((point) => point.media);
  const ntp = mean((point) => point.ntp);
  let rate = 1;
  if (points.length >= REPORTS_FOR_RATE && points.at(-1).media - points[0].media >= LEAST_SPAN_S) {
    const spread = mean((point) => (point.media - media) ** 2);
    rate = mean((point) => (point.media - media) * (point.ntp - ntp)) / spread;
    rate = Math.min(1 + MAX_SKEW, Math.max(1 - MAX_SKEW, rate));
  }
  return { start: near.ntp + ntp - media * rate, rate };
}
