/** Who is online, from presence.watch and the events after it. */
import { nameOf } from "./call-words.js";
import { Emitter } from "./emitter.js";

/** More people than this are not followed; a list that long is of no use. */
const MAX_PEOPLE = 1000;

export class People extends Emitter {
  #client;
  #me;
  /** user_id → {user_id, name}, of people online other than me. */
  #online = new Map();

  constructor(client, me) {
    super();
    this.#client = client;
    this.#me = me;
    client.on("presence.changed", (change) => this.#changed(change));
    // Watching ends with the socket's session, and changes may have been missed: every connect asks anew.
    client.on("connected", () => this.#watch());
  }

  /** By name, so that the list does not jump. */
  get list() {
    return [...this.#online.values()].sort((one, other) => nameOf(one).localeCompare(nameOf(other)));
  }

  async #watch() {
    const reply = await this.#client.watchPresence(["*"]).catch((error) => this.emit("notice", { text: error.message }));
    if (!reply) return;
    const names = new Map((reply.people ?? []).map(({ user_id, name }) => [user_id, name]));
    this.#online = new Map();
    for (const user_id of reply.online) this.#changed({ user_id, name: names.get(user_id), online: true });
    this.emit("change");
  }

  #changed({ user_id, name, online }) {
    if (user_id === this.#me) return;
    if (!online) this.#online.delete(user_id);
    else if (this.#online.size < MAX_PEOPLE) {
      const known = this.#online.get(user_id)?.name;
      this.#online.set(user_id, { user_id, name: name || known || user_id });
    }
    this.emit("change");
  }
}
