/**
 * What this device sends: microphone, camera, screen. Tracks outlive a peer connection, transceivers do not:
 * a rejoin attaches the same tracks to a new connection and nobody is asked for permission again.
 */
const MICROPHONE = { echoCancellation: true, noiseSuppression: true, autoGainControl: true };
const CAMERA = { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 24, max: 30 } };
const SCREEN = { frameRate: { ideal: 15, max: 30 } };
/** Three layers, smallest first, for the server to choose from per receiver. */
const CAMERA_LAYERS = [
  { rid: "q", scaleResolutionDownBy: 4, maxBitrate: 150_000, scalabilityMode: "L1T3" },
  { rid: "h", scaleResolutionDownBy: 2, maxBitrate: 500_000, scalabilityMode: "L1T3" },
  { rid: "f", scaleResolutionDownBy: 1, maxBitrate: 1_700_000, scalabilityMode: "L1T3" },
];
const SCREEN_LAYERS = [{ maxBitrate: 2_500_000 }];
const KIND = { microphone: "audio", camera: "video", screen: "video", screen_audio: "audio" };

/** What the browser's error names mean, and what to do, with the device filled in. */
const REASONS = {
  NotAllowedError: [
    "permission_denied",
    (what) => `The ${what} is blocked. Allow it with the icon beside the address, then press the ${what} button.`,
  ],
  NotFoundError: ["not_found", (what) => `No ${what} was found. Connect one, then press the ${what} button.`],
  NotReadableError: [
    "in_use",
    (what) => `Another program uses the ${what}. Close that program, then press the ${what} button.`,
  ],
  SecurityError: ["permission_denied", (what) => `A rule of the browser or of your organisation forbids the ${what} here.`],
};

const UNKNOWN_REASON = ["failed", (what) => `The ${what} could not be started. Press its button to try again.`];

/** Why a device could not be opened, in words that a user can act on. */
export class DeviceError extends Error {
  constructor(source, cause) {
    const [code, words] = REASONS[cause?.name] ?? UNKNOWN_REASON;
    super(globalThis.isSecureContext === false ? `The ${source} works only over https.` : words(source), { cause });
    this.name = "DeviceError";
    this.source = source;
    this.code = code;
  }
}

/**
 * Open microphone and camera with one question to the user; resolves with {tracks, errors}, both by source.
 * When the pair fails, each is tried alone, so that a missing camera does not cost the microphone.
 */
export async function openDevices(sources) {
  const result = { tracks: {}, errors: {} };
  if (sources.length === 0) return result;
  try {
    await open(sources, result);
  } catch (cause) {
    if (sources.length === 1) result.errors[sources[0]] = new DeviceError(sources[0], cause);
    else await openEach(sources, result);
  }
  return result;
}

async function openEach(sources, result) {
  for (const source of sources) {
    try {
      await open([source], result);
    } catch (cause) {
      result.errors[source] = new DeviceError(source, cause);
    }
  }
}

async function open(sources, result) {
  if (!navigator.mediaDevices) throw new DOMException("no media devices here", "NotSupportedError");
  const stream = await navigator.mediaDevices.getUserMedia({
    audio: sources.includes("microphone") && MICROPHONE,
    video: sources.includes("camera") && CAMERA,
  });
  for (const source of sources) {
    result.tracks[source] = stream.getTracks().find((track) => track.kind === KIND[source]);
  }
}

/** Ask for a screen; resolves with {screen, screen_audio?}. */
export async function openScreen() {
  try {
    const stream = await navigator.mediaDevices.getDisplayMedia({ video: SCREEN, audio: true });
    const [screen] = stream.getVideoTracks();
    const [screen_audio = null] = stream.getAudioTracks();
    screen.contentHint = "detail";
    return { screen, screen_audio };
  } catch (cause) {
    throw new DeviceError("screen", cause);
  }
}

/** Opus with each frame sent twice (RFC 2198), so that a voice survives a lossy link; no browser needs to know it. */
function preferRedundancy(transceiver) {
  const codecs = RTCRtpSender.getCapabilities?.("audio")?.codecs ?? [];
  const isRedundant = ({ mimeType }) => mimeType.toLowerCase() === "audio/red";
  if (!codecs.some(isRedundant)) return;
  transceiver.setCodecPreferences([...codecs.filter(isRedundant), ...codecs.filter((codec) => !isRedundant(codec))]);
}

export class LocalMedia {
  /** source → MediaStreamTrack, kept over reconnects. */
  #tracks = new Map();
  /** source → RTCRtpTransceiver of the present connection. */
  #transceivers = new Map();
  #pc = null;
  #layerChange = Promise.resolve();

  track(source) {
    return this.#tracks.get(source) ?? null;
  }

  /** Whether a source really gives media now: opened, not ended by the system, not muted by the user. */
  live(source) {
    const track = this.track(source);
    return Boolean(track && track.readyState === "live" && track.enabled);
  }

  /** Start over on a new connection: the wanted sources get their m-lines first, in this order. */
  attach(pc, sources) {
    this.#pc = pc;
    this.#transceivers = new Map();
    for (const source of sources) this.addSender(source);
  }

  /** Make sure a source has a sending m-line; one that was used before is used again. */
  addSender(source) {
    const existing = this.#transceivers.get(source);
    if (existing) {
      existing.direction = "sendonly";
      return;
    }
    const track = this.track(source);
    const sendEncodings = { camera: CAMERA_LAYERS, screen: SCREEN_LAYERS }[source];
    const init = { direction: "sendonly", ...(sendEncodings && { sendEncodings }) };
    const transceiver = this.#pc.addTransceiver(track ?? KIND[source], init);
    if (source === "microphone") preferRedundancy(transceiver);
    this.#transceivers.set(source, transceiver);
  }

  /** Send only the encodings that somebody takes; the rest cost neither processor nor uplink. */
  setActiveLayers(mid, active) {
    const transceiver = [...this.#transceivers.values()].find((one) => one.mid === mid);
    if (!transceiver) return Promise.resolve();
    const change = async () => {
      const parameters = transceiver.sender.getParameters();
      for (const encoding of parameters.encodings) encoding.active = active.includes(encoding.rid ?? "");
      await transceiver.sender.setParameters(parameters);
    };
    // One change at a time: parameters that were read before another change are refused.
    this.#layerChange = this.#layerChange.then(change).catch(() => {});
    return this.#layerChange;
  }

  /** Take a track for a source; the sender changes over without a negotiation. */
  async set(source, track) {
    this.#tracks.set(source, track);
    await this.#transceivers.get(source)?.sender.replaceTrack(track);
  }

  /** Stop capturing a source, light included; its m-line stays for the next time. */
  async drop(source) {
    const track = this.track(source);
    if (!track) return;
    track.onended = null;
    track.stop();
    this.#tracks.delete(source);
    await this.#transceivers.get(source)?.sender.replaceTrack(null);
  }

  /** Take a source out of the offer, which is how the server learns that it is no longer published. */
  async unpublish(source) {
    const transceiver = this.#transceivers.get(source);
    if (transceiver) transceiver.direction = "inactive";
    await this.drop(source);
  }

  /** The `tracks` of a media.offer; call after setLocalDescription, when the mids are known. */
  describe() {
    return [...this.#transceivers]
      .filter(([, { mid, direction }]) => mid !== null && direction === "sendonly")
      .map(([source, { mid }]) => ({ mid, source, muted: !this.live(source) }));
  }

  close() {
    for (const track of this.#tracks.values()) {
      track.onended = null;
      track.stop();
    }
    this.#tracks.clear();
    this.#transceivers.clear();
  }
}
