/** The list of recordings: its filters, its rows, and the words for what stands in a recording. */
import { endWords, lossWords } from "./call-timeline.js";
import { clock } from "./call-words.js";
import { byTest, element } from "./dom.js";

const STATES = {
  requested: "Asked for", starting: "Beginning", active: "Recording", paused: "Paused", finishing: "Being finished",
  uploading: "Being stored", sealed: "Sealed", failed: "Failed", erasing: "Being erased", erased: "Erased",
};
const ALARMS = {
  no_bytes: "Somebody sends, and nothing is written",
  upload_failing: "It cannot be brought to the store; it is tried again",
  upload_stalled: "It is not brought to the store: nothing moves",
};
const ERRORS = {
  ENOSPC: "The disk was full", recorder_gone: "The recorder failed", recorder_away: "There was no recorder",
  not_opened: "The recorder did not begin", taken_back: "It was taken back before it began", call_ended: "The call ended before it began",
};
const DAY_MS = 86_400_000;
const WHEN = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

export function stateWords(state) {
  return STATES[state] ?? String(state);
}

export function whenWords(at) {
  return at ? WHEN.format(new Date(at)) : "";
}

export function lengthWords(ms) {
  return ms === null || ms === undefined ? "" : clock(ms / 1000);
}

export function sizeWords(bytes) {
  if (bytes === null || bytes === undefined) return "";
  const units = ["bytes", "kB", "MB", "GB"];
  const step = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(1, bytes)) / 3));
  return `${(bytes / 1000 ** step).toFixed(step > 1 ? 1 : 0)} ${units[step]}`;
}

/** Names of who was in the call, also of who came later; the id of whoever sent nothing. */
export function whoWords({ user_ids, files }) {
  const names = new Map((user_ids ?? []).map((id) => [id, id]));
  for (const { user_id, user_name } of files ?? []) if (user_id) names.set(user_id, user_name || user_id);
  return [...names.values()];
}

/** Everything of a recording that somebody should look at, in words. */
export function alarmWords({ state, alarm, error, losses, end_reason }) {
  const lost = lossWords(losses ?? {});
  return [
    alarm && (ALARMS[alarm] ?? alarm),
    error && `${state === "failed" ? "Failed: " : ""}${ERRORS[error] ?? error}`,
    end_reason && end_reason !== "call_ended" && end_reason !== "stopped" && `Ended because ${endWords(end_reason)}`,
    lost.length > 0 && `Missing: ${lost.join(", ")}`,
  ].filter(Boolean);
}

/** State, alarm and hold, each as a badge. */
export function badges(recording) {
  const made = [element("span", { className: "badge", "data-state": recording.state, textContent: stateWords(recording.state) })];
  if (recording.alarm) made.push(element("span", { className: "badge", "data-state": "alarm", textContent: "Alarm" }));
  if (recording.hold) made.push(element("span", { className: "badge", "data-state": "held", textContent: "On hold" }));
  return made;
}

/** A name as it stands there, whatever its letters do to those beside it. */
export function nameElement(name) {
  return element("bdi", { textContent: name });
}

export class RecordingsList {
  #api;
  #form = byTest("filters");
  #cursor = null;
  /** Counts the questions: an answer to an older one is not shown. */
  #asked = 0;

  constructor() {
    const states = Object.entries(STATES).map(([value, words]) => element("option", { value, textContent: words }));
    byTest("filter-state").replaceChildren(element("option", { value: "", textContent: "All" }), ...states);
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.refresh();
    });
    this.#form.addEventListener("reset", () => setTimeout(() => this.refresh()));
    byTest("more").addEventListener("click", () => this.#ask());
  }

  use(api) {
    this.#api = api;
  }

  /** Ask for the first page anew; a refusal is thrown when `isEntering`, else it is shown. */
  refresh(isEntering = false) {
    this.#cursor = null;
    byTest("recordings").replaceChildren();
    return this.#ask(isEntering);
  }

  async #ask(isEntering = false) {
    this.#asked += 1;
    const asked = this.#asked;
    byTest("more").hidden = true;
    this.#say("Reading…");
    try {
      const { recordings, next_cursor } = await this.#api.list({ ...this.#filters(), cursor: this.#cursor });
      if (asked !== this.#asked) return;
      byTest("recordings").append(...recordings.map(row));
      this.#cursor = next_cursor;
      byTest("more").hidden = !next_cursor;
      this.#say(byTest("recordings").children.length > 0 ? "" : this.#emptyWords());
    } catch (error) {
      if (isEntering) throw error;
      if (asked === this.#asked) this.#say(`The recordings could not be read. ${error.message}`, true);
    }
  }

  #say(words, isError = false) {
    const place = byTest("list-words");
    place.textContent = words;
    place.toggleAttribute("data-error", isError);
  }

  #emptyWords() {
    return Object.values(this.#filters()).some(Boolean) ? "No recording is like that. Change the filters, or clear them." : "There is no recording yet.";
  }

  /** Days are those of who looks: from the beginning of the first to the end of the last. */
  #filters() {
    const { state, user_id, since, until } = Object.fromEntries(new FormData(this.#form));
    const dayMs = (day) => new Date(`${day}T00:00`).getTime();
    return {
      state,
      user_id: user_id.trim(),
      since: since && new Date(dayMs(since)).toISOString(),
      until: until && new Date(dayMs(until) + DAY_MS).toISOString(),
    };
  }
}

function row(recording) {
  const { id, created_at, started_at, duration_ms, bytes } = recording;
  const at = started_at ?? created_at;
  const names = whoWords(recording).flatMap((name, index) => [index > 0 && ", ", nameElement(name)]);
  const facts = [lengthWords(duration_ms), sizeWords(bytes)].filter(Boolean).join(" · ");
  const alarms = alarmWords(recording).join(" · ");
  return element("li", { className: "recording-row" },
    element("a", { href: `#recording=${encodeURIComponent(id)}`, "data-testid": `recording-${id}` },
      element("span", { className: "row-who" }, ...names),
      element("time", { className: "row-when", dateTime: at, title: at, textContent: whenWords(at) }),
      element("span", { className: "row-facts", textContent: facts }),
      element("span", { className: "badges" }, ...badges(recording)),
      alarms && element("span", { className: "row-alarms", textContent: alarms })));
}
