"""The process that works on the database of one server: python -m sfu.store.process FD.

It is told the URL, then asked: the name of a method of `SqlStore`, and what it is called with. It ends when
its server is gone, after what is under way.
"""

import asyncio
import signal
import socket
import sys
from typing import Any

import structlog

from sfu import event_loop
from sfu.errors import SfuError
from sfu.log import configure
from sfu.store.channel import Channel
from sfu.store.records import StoreError
from sfu.store.sql import SqlStore

log = structlog.get_logger()


class StoreProcess:
    """One store, and the channel on which it is asked."""

    def __init__(self, end: socket.socket) -> None:
        self._store: SqlStore[Any] | None = None
        self._asked: set[asyncio.Task[None]] = set()
        self._gone = asyncio.Event()
        self._channel = Channel(end, self._receive, self._gone.set)

    async def run(self) -> None:
        """Answer until the server is gone."""
        await self._gone.wait()
        if self._asked:
            await asyncio.wait(self._asked)
        if self._store is not None:
            await self._store.close()

    def _receive(self, question: tuple[int, str, str, Any, Any]) -> None:
        task = asyncio.create_task(self._answer(*question))
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)

    async def _answer(self, number: int, part: str, name: str, args: Any, kwargs: Any) -> None:
        try:
            answer: Any = None
            if name == "open":
                await self._open(*args)
            else:
                store: Any = self._store
                answer = await getattr(getattr(store, part) if part else store, name)(*args, **kwargs)
            self._channel.send((number, True, answer))
        except (SfuError, StoreError) as error:
            self._channel.send((number, False, error))
        except Exception as error:
            log.exception("store_failed", asked=name)
            self._channel.send((number, False, RuntimeError(f"{type(error).__name__}: {error}")))

    async def _open(self, url: str, stored: Any) -> None:
        store: SqlStore[Any] = SqlStore(url, stored)
        await store.open()
        self._store = store
        event_loop.settle()


async def _run(end: socket.socket) -> None:
    await StoreProcess(end).run()


def main() -> None:
    """Work for the server at the other end of the socket that was handed over."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the server, which says when it is over
        signal.signal(number, signal.SIG_IGN)
    configure("info")
    with asyncio.Runner(loop_factory=event_loop.factory()) as runner:
        runner.run(_run(socket.socket(fileno=int(sys.argv[1]))))


if __name__ == "__main__":
    main()
