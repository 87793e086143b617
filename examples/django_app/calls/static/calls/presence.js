/** Who of the people on this page is online. */
/** Whoever opens another page of the site is away for a moment: that is not worth a change. */
const PATIENCE_MS = 3_000;

export class Presence {
  #online = new Set();
  #leaving = new Map();
  #changed = () => {};
  isOnline = (userId) => this.#online.has(userId);

  constructor(client) {
    const people = [...document.querySelectorAll("[data-person]")].map(({ dataset }) => dataset.person);
    if (people.length === 0) return;
    client.on("presence.changed", ({ user_id, online }) => this.#change(user_id, online));
    // Watching ends with the session: every connection asks again.
    client.on("connected", async () => {
      const { online } = await client.watchPresence(people).catch(() => ({ online: [] }));
      this.#online = new Set(online);
      this.#changed();
    });
  }

  on(_change, handler) {
    this.#changed = handler;
  }

  #change(userId, online) {
    clearTimeout(this.#leaving.get(userId));
    if (online) this.#set(userId, true);
    else this.#leaving.set(userId, setTimeout(() => this.#set(userId, false), PATIENCE_MS));
  }

  #set(userId, online) {
    if (online) this.#online.add(userId);
    else this.#online.delete(userId);
    this.#changed();
  }
}
