/** Plays every bound audio slot through an <audio> element, and says when the browser wants a click first. */
import { element } from "./dom.js";

export class Sound {
  #container;
  #onBlocked;
  /** mid → <audio>; never more than the session has audio slots. */
  #players = new Map();

  constructor(container, onBlocked) {
    this.#container = container;
    this.#onBlocked = onBlocked;
  }

  /** Follow the slots: a slot keeps its element, since its track stays when the speaker behind it changes. */
  follow(slots) {
    const audible = new Map(slots.filter(({ track }) => track?.kind === "audio").map((slot) => [slot.mid, slot.track]));
    for (const [mid, player] of this.#players) if (!audible.has(mid)) this.#remove(mid, player);
    for (const [mid, track] of audible) this.#play(mid, track);
  }

  /** Try all again, from a click. */
  unblock() {
    this.#onBlocked(false);
    for (const player of this.#players.values()) this.#start(player);
  }

  silence() {
    for (const [mid, player] of this.#players) this.#remove(mid, player);
    this.#onBlocked(false);
  }

  #play(mid, track) {
    let player = this.#players.get(mid);
    if (!player) {
      player = element("audio", { autoplay: true });
      this.#players.set(mid, player);
      this.#container.append(player);
    }
    if (player.srcObject?.getTracks()[0] === track) return;
    player.srcObject = new MediaStream([track]);
    this.#start(player);
  }

  #start(player) {
    player.play().catch((error) => {
      if (error.name === "NotAllowedError") this.#onBlocked(true);
    });
  }

  #remove(mid, player) {
    player.srcObject = null;
    player.remove();
    this.#players.delete(mid);
  }
}
