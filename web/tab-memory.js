/** A small record in sessionStorage: what one tab remembers over a reload, so that two tabs can be two users. */
export class TabMemory {
  #key;

  constructor(key) {
    this.#key = key;
  }

  read() {
    try {
      return JSON.parse(sessionStorage.getItem(this.#key)) ?? {};
    } catch {
      return {};
    }
  }

  update(changes) {
    sessionStorage.setItem(this.#key, JSON.stringify({ ...this.read(), ...changes }));
  }

  clear() {
    sessionStorage.removeItem(this.#key);
  }
}
