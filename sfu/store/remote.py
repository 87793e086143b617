"""The server's end of its store: starts the process that works on the database, asks it, looks after it.

What waits for a disk or a database, and what SQLAlchemy takes of the interpreter, keeps no packet waiting.
"""

import asyncio
import contextlib
import itertools
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

import structlog

from sfu.errors import Unavailable
from sfu.store.channel import Channel
from sfu.store.records import MakeStored, NewEvent, StoredEvent, StoreError, numbered
from sfu.tasks import end

log = structlog.get_logger()

# How long it may take to finish what is under way and end.
END_S = 10.0

# A question that is the oldest at two looks is not answered any more: the process hangs, and is killed.
LOOK_S = 20.0

# It is started again after so long, and each time after twice as long.
RESTART_S, MAX_RESTART_S = 0.2, 5.0

StoredT = TypeVar("StoredT", bound=StoredEvent)

Asked = Callable[..., Awaitable[Any]]


class RemotePart:
    """What belongs to a store under a name: its methods are asked for in the process."""

    def __init__(self, store: "RemoteStore[Any]", name: str) -> None:
        self._store, self._name = store, name

    def __getattr__(self, name: str) -> Asked:
        return self._store.method(self._name, name)


class RemoteStore(Generic[StoredT]):
    """Every method of `SqlStore`, done in a process of its own.

    Each raises what it raises there, and Unavailable while the process is not there. What was under way when
    it died may be kept or not, as with any database; `restarted` is called once it is back.
    """

    def __init__(self, url: str, stored: MakeStored, restarted: Callable[[], Awaitable[None]]) -> None:
        """Note where the database is; nothing is started yet."""
        self._url, self._stored, self._restarted = url, stored, restarted
        self.outbox, self.recordings = RemotePart(self, "outbox"), RemotePart(self, "recordings")
        self._numbers = itertools.count()
        # Questions that are not answered yet.
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._channel: Channel | None = None
        self._process: asyncio.subprocess.Process | None = None
        # Whether the process has opened the database.
        self._is_open = False
        # Set while nothing comes from a process.
        self._ended = asyncio.Event()
        self._ended.set()
        self._keeper: asyncio.Task[None] | None = None
        self._is_closing = False

    @property
    def pid(self) -> int | None:
        """The process, while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def open(self) -> None:
        """Start the process, which brings the tables up to this version; start it again whenever it is gone.

        Raises:
            StoreError: that is not possible, or the URL is not that of a database that is known.

        """
        try:
            await self._start()
        except (OSError, Unavailable) as error:
            await self.close()
            raise StoreError(str(error)) from error
        except BaseException:
            await self.close()
            raise
        self._keeper = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """Let the process finish what is under way and end."""
        self._is_closing = True
        if self._keeper is not None:
            await end(self._keeper)
        if self._channel is not None:
            self._channel.finish()
        if self._process is not None:
            try:
                async with asyncio.timeout(END_S):
                    await self._process.wait()
                    await self._ended.wait()  # its last answers have come
            except TimeoutError:
                log.error("store_killed")
                _kill(self._process)
                await self._process.wait()
        self._hang_up()

    async def _start(self) -> None:
        mine, its = socket.socketpair()
        with its:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "sfu.store.process", str(its.fileno())), pass_fds=(its.fileno(),)
            )
        channel = self._channel = Channel(mine, self._receive, lambda: self._fail_all(channel))
        self._ended.clear()
        await self._ask("", "open", (self._url, self._stored), {})
        self._is_open = True

    async def _keep(self) -> None:
        """Start the process again whenever it is gone."""
        wait = RESTART_S
        while True:
            began = asyncio.get_running_loop().time()
            if self._process is not None:
                await self._ends(self._process)
            lasted = asyncio.get_running_loop().time() - began
            wait = RESTART_S if lasted > MAX_RESTART_S else wait
            log.error("store_gone", again_in_s=wait)
            self._hang_up()
            await asyncio.sleep(wait)
            wait = min(MAX_RESTART_S, wait * 2)
            try:
                await self._start()
            except Exception as error:  # whatever it is, it is tried again
                log.error("store_not_started", error=str(error))
                if self._process is not None:
                    _kill(self._process)
                continue
            with contextlib.suppress(Unavailable):
                await self._restarted()

    async def _ends(self, process: asyncio.subprocess.Process) -> None:
        """Wait for the end of a process; kill one that answers no more."""
        oldest = None
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    await process.wait()
                return
            except TimeoutError:
                before, oldest = oldest, next(iter(self._asked), None)
                if oldest is not None and oldest == before:
                    log.error("store_hangs")
                    _kill(process)

    def _hang_up(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._fail_all(self._channel)

    def _fail_all(self, channel: Channel) -> None:
        """Nothing more comes on a channel: whoever waits for an answer is told."""
        if channel is not self._channel:
            return
        self._channel, self._is_open = None, False
        self._ended.set()
        waiting, self._asked = self._asked, {}
        for answer in waiting.values():
            if not answer.done():
                answer.set_exception(_away())

    # Asking

    def method(self, part: str, name: str) -> Asked:
        """Return a method of the store, or of a part of it, that is asked for in the process."""

        async def asked(*args: Any, **kwargs: Any) -> Any:
            return await self._ask(part, name, args, kwargs)

        return asked

    def __getattr__(self, name: str) -> Asked:
        if name.startswith("_"):
            raise AttributeError(name)
        return self.method("", name)

    async def commit(self, call: Any, events: Sequence[NewEvent], **options: Any) -> list[StoredT]:
        """Keep a call and its events together; see `SqlStore.commit`. Only numbers come back."""
        options = {"at": "", "due_at": None, "claim": None, "free": (), **options}
        return numbered(self._stored, events, await self._ask("", "keep", (call, events), options))

    async def is_there(self) -> bool:
        """Tell whether the database answers."""
        try:
            return bool(await self._ask("", "is_there", (), {}))
        except Unavailable:
            return False

    def _ask(self, part: str, name: str, args: Any, kwargs: Any) -> asyncio.Future[Any]:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._channel is None or not (self._is_open or name == "open"):
            answer.set_exception(_away())
            return answer
        number = next(self._numbers)
        self._channel.send((number, part, name, args, kwargs))
        self._asked[number] = answer
        return answer

    def _receive(self, message: tuple[int, bool, Any]) -> None:
        number, is_there, value = message
        answer = self._asked.pop(number, None)
        if answer is None or answer.done():  # nobody waits any more
            return
        if is_there:
            answer.set_result(value)
        else:
            answer.set_exception(value)


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        process.kill()


def _away() -> Unavailable:
    return Unavailable("The database does not answer: its process is not there.", code="store_away")
