/**
 * The two sounds of a call that is not answered yet. Each is computed once into a buffer that loops, so that no timer is
 * involved: a page in the background, whose timers the browser slows down, rings all the same.
 */
const CYCLE_S = { incoming: 2.6, outgoing: 3.6 };
/** The two tones of the incoming ring (a falling third, like a door chime), as [start second, Hz]. */
const CHIME = [[0, 783.99], [0.24, 659.26], [0.62, 783.99], [0.86, 659.26]];
const CHIME_DECAY_S = 0.34;
const VOLUME = { incoming: 0.5, outgoing: 0.22 };

export class Ring {
  #context = null;
  #gain = null;
  #analyser = null;
  #source = null;
  #buffers = {};

  /** What rings now: incoming, outgoing or null. */
  kind = null;

  /** Browsers hold sound back until the user has touched the page: call this from a click. */
  unlock() {
    this.#prepare();
    if (this.#context.state === "suspended") this.#context.resume().catch(() => {});
  }

  start(kind) {
    if (this.kind === kind) return;
    this.stop();
    this.unlock();
    this.kind = kind;
    this.#buffers[kind] ??= render(kind, this.#context);
    this.#source = new AudioBufferSourceNode(this.#context, { buffer: this.#buffers[kind], loop: true });
    this.#source.connect(this.#gain);
    this.#gain.gain.value = VOLUME[kind];
    this.#source.start();
  }

  stop() {
    this.kind = null;
    this.#source?.stop();
    this.#source?.disconnect();
    this.#source = null;
  }

  /** Loudness at this moment (RMS, 0 to 1), measured behind the gain: what really goes to the speaker. */
  level() {
    if (!this.#analyser) return 0;
    const samples = new Float32Array(this.#analyser.fftSize);
    this.#analyser.getFloatTimeDomainData(samples);
    return Math.sqrt(samples.reduce((sum, value) => sum + value * value, 0) / samples.length);
  }

  #prepare() {
    if (this.#context) return;
    this.#context = new AudioContext();
    this.#gain = new GainNode(this.#context);
    this.#analyser = new AnalyserNode(this.#context, { fftSize: 2048 });
    this.#gain.connect(this.#analyser).connect(this.#context.destination);
  }
}

function render(kind, context) {
  const buffer = context.createBuffer(1, Math.round(CYCLE_S[kind] * context.sampleRate), context.sampleRate);
  const samples = buffer.getChannelData(0);
  const voice = kind === "incoming" ? chime : ringback;
  for (let index = 0; index < samples.length; index += 1) samples[index] = voice(index / context.sampleRate);
  return buffer;
}

/** Struck notes with a soft octave above, each ringing on into the next. */
function chime(second) {
  let sum = 0;
  for (const [start, hertz] of CHIME) {
    const age = second - start;
    if (age < 0) continue;
    const envelope = Math.min(1, age / 0.008) * Math.exp(-age / CHIME_DECAY_S);
    sum += envelope * (Math.sin(2 * Math.PI * hertz * age) + 0.25 * Math.sin(4 * Math.PI * hertz * age));
  }
  return sum * 0.42;
}

/** The pair of tones that telephones use while the other end rings, with rounded edges. */
function ringback(second) {
  const lengthS = 1.2;
  if (second > lengthS) return 0;
  const envelope = Math.min(1, second / 0.06, (lengthS - second) / 0.06);
  return envelope * 0.4 * (Math.sin(2 * Math.PI * 440 * second) + Math.sin(2 * Math.PI * 480 * second));
}
