"""One process that writes, or two on two disks as one: a recording fails only when all who write it do."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from sfu import clock
from sfu.errors import Unavailable
from sfu.recorder.client import RecorderClient

log = structlog.get_logger()

# One of two who writes and says nothing for so long is ended and started again: each tells every second how
# much it has written. The other does not wait for it.
SILENT_S = 30.0


class Recorders:
    """The processes by place: 0 is the first, 1 the other.

    What they tell is passed on with the `place` it comes from. Of a recording that both write, `sealed` comes
    when the last has sealed or failed, with the manifest of the first of those who sealed, and `failed` when
    both have failed; that one of them has is told as `one_failed`.
    """

    def __init__(
        self,
        roots: Sequence[Path],
        key: Path,
        receive: Callable[[dict[str, Any]], None],
        lost: Callable[[], None],
    ) -> None:
        # `lost` is called when one of the processes is gone, after all that it wrote was told as failed.
        self._receive, self._lost = receive, lost
        self.clients = [
            RecorderClient(root, key, partial(self._heard, place), partial(self._gone, place))
            for place, root in enumerate(roots)
        ]
        # Recording → who writes it; and who has sealed it, with its manifest.
        self._writing: dict[int, list[int]] = {}
        # When each told something last.
        self._heard_at = [0.0] * len(self.clients)
        self._sealed: dict[int, list[tuple[int, dict[str, Any]]]] = {}

    @property
    def is_ready(self) -> bool:
        """Whether anything can be written now."""
        return any(client.is_ready for client in self.clients)

    def is_ready_at(self, place: int) -> bool:
        """Whether the recorder in a place is there."""
        return place < len(self.clients) and self.clients[place].is_ready

    def writers(self, number: int) -> int:
        """How many write a recording."""
        return len(self._writing.get(number, ()))

    @property
    def pids(self) -> list[int]:
        """The processes that run."""
        return [client.pid for client in self.clients if client.pid is not None]

    async def start(self) -> None:
        """Start the processes, and start each again whenever it is gone.

        Raises:
            Unavailable: none of them comes up.

        """
        found = await asyncio.gather(*(client.start() for client in self.clients), return_exceptions=True)
        failures = [failure for failure in found if isinstance(failure, BaseException)]
        if len(failures) == len(self.clients) or any(not isinstance(f, Unavailable) for f in failures):
            raise failures[0]

    async def close(self) -> None:
        """Let all seal what is open, and end."""
        await asyncio.gather(*(client.close() for client in self.clients))

    # What goes there

    def send(self, message: Mapping[str, Any]) -> None:
        """Tell them something: `open` says how many `recorders` write; all have a `rec` or a `place`."""
        for place in self._places(message):
            self.clients[place].send(message)

    def _places(self, message: Mapping[str, Any]) -> Sequence[int]:
        if message["type"] in ("archive", "remove"):
            return [message["place"]]
        number = message["rec"]
        if message["type"] == "open":
            ready = [place for place, client in enumerate(self.clients) if client.is_ready]
            busy = self._busy()
            self._writing[number] = ready[: message["recorders"]]
            for place in self._busy() - busy:  # who writes nothing says nothing
                self._heard_at[place] = clock.now()
        return list(self._writing.get(number, ()))

    def send_media(self, number: int, source: int, at_us: int, packet: bytes) -> None:
        """Give a packet of a recording to all who write it, or drop it where too much waits."""
        for place in self._writing.get(number, ()):
            self.clients[place].send_media(number, source, at_us, packet)

    def forget(self, number: int) -> None:
        """Nothing more goes to a recording."""
        self._writing.pop(number, None)
        self._sealed.pop(number, None)
        for client in self.clients:
            client.dropped.pop(number, None)

    def _busy(self) -> set[int]:
        return {place for writing in self._writing.values() for place in writing}

    def tick(self, now: float) -> None:
        """End one of two who hangs; called once a second."""
        for place in self._busy() if len(self.clients) > 1 else ():
            if now - self._heard_at[place] > SILENT_S:
                log.error("recorder_hangs", place=place)
                self._heard_at[place] = now
                self.clients[place].kill()

    # What they tell

    def _heard(self, place: int, message: dict[str, Any]) -> None:
        message["place"], self._heard_at[place] = place, clock.now()
        number = message.get("rec")
        if number is None:
            self._receive(message)
            return
        writing = self._writing.get(number, [])
        if place not in writing:
            return
        if message["type"] == "sealed":
            self._sealed.setdefault(number, []).append((place, message["manifest"]))
            self._ended(number, place, message)
        elif message["type"] == "failed":
            self._ended(number, place, message)
        else:
            self._receive(message)

    def _ended(self, number: int, place: int, message: dict[str, Any]) -> None:
        """One of those who write a recording does so no more: the last of them decides what it is."""
        writing = self._writing[number]
        writing.remove(place)
        if message["type"] == "failed":
            log.error("recorder_failed", recording=number, place=place, code=message["code"])
        if writing:
            if message["type"] == "failed":
                self._receive({**message, "type": "one_failed"})
            return
        sealed = sorted(self._sealed.get(number, []), key=lambda found: found[0])
        if sealed:
            first, manifest = sealed[0]
            self._receive({"type": "sealed", "rec": number, "manifest": manifest, "place": first})
        else:
            self._receive(message)

    def _gone(self, place: int) -> None:
        for number, writing in list(self._writing.items()):
            if place in writing:
                self._heard(place, {"type": "failed", "rec": number, "code": "recorder_gone"})
        self._lost()
