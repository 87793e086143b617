/** What a call says to its user: pure functions from calls to words. */

/** A participant's name, falling back to the id that everybody has. */
export function nameOf({ name, user_id }) {
  return name || user_id;
}

export function others(call, myId) {
  return call.participants.filter(({ user_id }) => user_id !== myId);
}

export function myState(call, myId) {
  return call.participants.find(({ user_id }) => user_id === myId)?.state ?? null;
}

/** More than two people: leaving is then something else than ending. */
export function isGroup(call) {
  return call.participants.length > 2;
}

/** "Ada", "Ada and Bob", "Ada, Bob and 3 others". */
export function listNames(people) {
  const names = people.map(nameOf);
  if (names.length <= 2) return names.join(" and ");
  const rest = names.length - 2;
  return `${names[0]}, ${names[1]} and ${rest} other${rest > 1 ? "s" : ""}`;
}

/** What to tell somebody who was in the call, or placed it, when it ends. */
export function endNotice(call, myId) {
  const inState = (state) => listNames(others(call, myId).filter((person) => person.state === state));
  switch (call.end_reason) {
    case "rejected":
      return `${inState("rejected") || listNames(others(call, myId))} declined`;
    case "busy":
      return `${inState("busy") || listNames(others(call, myId))} is busy`;
    case "missed":
      return "No answer";
    case "cancelled":
      return "Call cancelled";
    case "failed":
      return "The call failed";
    default:
      return "Call ended";
  }
}

/** What to tell somebody who was only rung; null when nothing is worth a word (I declined it myself). */
export function missedNotice(call, myId) {
  if (myState(call, myId) === "rejected") return null;
  const caller = call.initiator_name || call.initiator;
  if (call.end_reason === "cancelled") return `${caller} cancelled the call`;
  return `Missed call from ${caller}`;
}

const CHANGES = {
  rejected: (name) => `${name} declined`,
  busy: (name) => `${name} is busy`,
  missed: (name) => `No answer from ${name}`,
  left: (name) => `${name} left`,
};

const RECORDED = {
  requested: "Recording begins",
  starting: "Recording begins",
  active: "Recording",
  paused: "Recording paused",
  finishing: "Recording ends",
};

/** What a call's recording is now, in words; empty where nothing is written. */
export function recordingWords(recording) {
  return RECORDED[recording?.state] ?? "";
}

/** Whether I am asked if I may be recorded, and have not said anything yet. */
export function asksConsent(recording, myId) {
  return recording?.consent === "require_ack" && recording.state in RECORDED && !recording.answers?.[myId];
}

/** What changed for the others between two looks at a running call. */
export function changeNotices(before, after, myId) {
  const states = new Map(before.participants.map(({ user_id, state }) => [user_id, state]));
  return others(after, myId)
    .filter(({ user_id, state }) => states.has(user_id) && states.get(user_id) !== state && CHANGES[state])
    .map((person) => CHANGES[person.state](nameOf(person)));
}

/** Seconds as mm:ss, or h:mm:ss past the hour. */
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const pad = (value) => String(value).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return `${hours ? `${hours}:` : ""}${pad(minutes)}:${pad(whole % 60)}`;
}
