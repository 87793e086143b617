/** Event source of the client modules: plain values instead of Event objects, so that it also runs outside a page. */
export class Emitter {
  #handlers = new Map();

  /** Subscribe; the returned function unsubscribes, so that an owner can keep a list and close all of it. */
  on(type, handler) {
    if (!this.#handlers.has(type)) this.#handlers.set(type, new Set());
    this.#handlers.get(type).add(handler);
    return () => this.#handlers.get(type)?.delete(handler);
  }

  /** A handler that throws is reported and skipped: one broken listener must not stop the protocol. */
  emit(type, detail) {
    for (const handler of [...(this.#handlers.get(type) ?? [])]) {
      try {
        handler(detail);
      } catch (error) {
        reportError(error);
      }
    }
  }

  /** Forget every listener, for owners that end for good. */
  silence() {
    this.#handlers.clear();
  }
}

/**
 * Wrap an async job so that one run is under way at a time; calls made meanwhile share one further run.
 * The queue is therefore never longer than one, however often a user clicks.
 */
export function coalesce(job) {
  let running = null;
  let next = null;
  return function run() {
    if (!running) {
      running = job().finally(() => {
        running = null;
      });
      return running;
    }
    next ??= running
      .catch(() => {})
      .then(() => {
        next = null;
        return run();
      });
    return next;
  };
}
