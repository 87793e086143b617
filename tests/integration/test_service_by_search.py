"""Two processes on one database, under acts, races, cuts and crashes that are searched for and shrunk.

`tests/simulate_calls.py` runs for long with a seed; this looks for the shortest way into trouble. Gateway,
hub, service and SQL store are the real ones, on a SQLite file; what is not real is who goes first. Each
trip to the database is a step, what comes back from it is another, and the next step is chosen; time
passes only when it is told to. Events reach the other process when they are delivered: late, out of order,
twice, or never.

After each move:

1. the database saw the versions of each call as 1, 2, 3, … and a status that never goes back; nothing of a
   call is written after its end, and of the end each participant is told once, as the last thing;
2. the events of each user are numbered from 1 without a hole, and what was kept never changes;
3. a device has read exactly what is kept, in order, from where it began, over cuts and resumptions, and as
   far as its process was told; it rings for nothing that does not ring any more;
4. an act alone does what the pure function makes of the kept call, on whichever process and whatever that
   process believes; what is refused, or repeated, writes nothing;
5. a key of idempotency stands for one call, for ever;
6. nothing fails within.

In the end, when all sockets are gone and all time is up, no call is left open.
"""

import asyncio
import contextlib
import functools
import itertools
import json
import selectors
import shutil
import sqlite3
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine, Iterable
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
import structlog
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sfu import clock, ids
from sfu.auth import Grants, Identity, TokenAuthority
from sfu.calls import call as acts
from sfu.calls.call import NO_DEVICE, Call, Change, Participant, from_document
from sfu.calls.ports import StoredEvent, decode_event, encode_event
from sfu.calls.service import OVERDUE_S, CallService
from sfu.calls.survivors import BEAT_S, DEAD_S, Survivors
from sfu.calls.table import CALL, IN, PENDING, State, Status
from sfu.errors import SfuError
from sfu.metrics import Metrics
from sfu.settings import Auth, Calls, Http
from sfu.signaling.dialects import PLAIN
from sfu.signaling.gateway import Gateway
from sfu.signaling.hub import Hub
from sfu.signaling.limits import Patience
from sfu.signaling.media_link import MediaLink
from sfu.store.sql import SqlStore

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
RING_S, GRACE_S, RESUME_S = 8.0, 5.0, 6.0
USERS = "abcd"
# Devices, by whose they are and the process that they go to first; `d` has none.
DEVICES = {"a1": 0, "b1": 0, "b2": 1, "c1": 1}
# Requests without a socket: who, and on which process.
REQUESTS = [f"{user}@{slot}" for user in USERS for slot in (0, 1)]

AUTHORITY, METRICS = TokenAuthority(Auth(secret="s" * 32)), Metrics()

# The process to which tasks, timers and steps belong.
OWNER: ContextVar[str] = ContextVar("owner", default="")

T = TypeVar("T")
Document = dict[str, Any]


class Step:
    """A trip to the database: it is made at one moment, and what came of it is known at another."""

    def __init__(self, owner: str, work: Callable[[], Any], future: "asyncio.Future[Any]") -> None:
        self.owner, self.is_made, self._work, self._future = owner, False, work, future
        self._result: Any = None
        self._error: Exception | None = None

    def make(self) -> None:
        self.is_made = True
        try:
            self._result = self._work()
        except Exception as error:
            self._error = error

    def tell(self) -> None:
        if self._future.done():
            return
        if self._error is not None:
            self._future.set_exception(self._error)
        else:
            self._future.set_result(self._result)


class SteppedLoop(asyncio.SelectorEventLoop):
    """A loop without threads, in which it is chosen who goes first, and time stands still by itself."""

    def __init__(self) -> None:
        super().__init__(_NoWait(self))
        self.passed = 0.0
        # Which of those that wait is next; when it is used up, the one that waits longest.
        self.schedule: list[int] = []
        self._steps: list[Step] = []
        self._left: int | None = None
        self._quiet: asyncio.Future[float | None] | None = None
        self._timers: list[tuple[str, asyncio.TimerHandle]] = []
        self._tasks: list[tuple[str, asyncio.Task[Any]]] = []
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        return self.passed

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        future: asyncio.Future[Any] = self.create_future()
        self._steps.append(Step(OWNER.get(), functools.partial(func, *args), future))
        return future

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = super().call_at(when, callback, *args, context=context)
        self._timers.append((OWNER.get(), handle))
        return handle

    def _make_task(self, loop: Any, work: Any, context: Context | None = None) -> Any:
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, context=context)
        self._tasks.append(((context or copy_context()).get(OWNER, ""), task))
        return task

    async def quiet(self, steps: int | None = None) -> float | None:
        """Go on until nobody can, or for so many steps; return when the next timer is due."""
        self._left, self._quiet = steps, self.create_future()
        return await self._quiet

    async def pass_time(self, seconds: float) -> None:
        """Let time pass, with a stop at each timer."""
        until = self.passed + seconds
        while (delay := await self.quiet()) is not None and self.passed + delay <= until:
            self.passed += delay
        self.passed = until
        await self.quiet()

    async def kill(self, owner: str) -> None:
        """Let nothing of a process go on, wherever it stands."""
        self._steps = [step for step in self._steps if step.owner != owner]
        for whose, timer in self._timers:
            if whose == owner:
                timer.cancel()
        tasks = [task for whose, task in self._tasks if whose == owner and not task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def idle(self, delay: float | None) -> None:
        """Nobody can go on: make a step, or tell whoever waits for quiet."""
        if self._quiet is not None and (not self._steps or self._left == 0):
            quiet, self._quiet = self._quiet, None
            quiet.set_result(delay)
            return
        if not self._steps:
            raise RuntimeError("somebody waits for what never comes")
        if self._left is not None:
            self._left -= 1
        step = self._steps[self.schedule.pop(0) % len(self._steps) if self.schedule else 0]
        if step.is_made:
            self._steps.remove(step)
            step.tell()
        else:
            step.make()


class _NoWait(selectors.SelectSelector):
    def __init__(self, loop: SteppedLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None or timeout > 0:
            self._loop.idle(timeout)
        return super().select(0)


class Wire:
    """The bus of one process: its own sockets at once; for the others it lies in `outbox`."""

    def __init__(self) -> None:
        self.receivers: list[Callable[[StoredEvent], Any]] = []
        self.outbox: list[bytes] = []
        # By user: the last event that this process was told.
        self.told: Counter[str] = Counter()

    async def publish(self, event: StoredEvent) -> None:
        self.outbox.append(encode_event(event))
        self.told[event.user_id] = max(self.told[event.user_id], event.seq)
        for receive in self.receivers:
            await receive(event)

    def subscribe(self, receive: Callable[[StoredEvent], Any]) -> None:
        self.receivers.append(receive)


class NoMedia:
    """A media plane in which nobody is."""

    def remove(self, peer_id: str, reason: str) -> None: ...


class Process:
    """One life of a server process, put together as the server does it."""

    def __init__(self, loop: SteppedLoop, url: str, number: int) -> None:
        self._loop, self.name = loop, f"{number:012x}"
        self._context = copy_context()
        self._context.run(OWNER.set, self.name)
        # What others published and did not arrive yet.
        self.inbox: list[bytes] = []
        self.bus = Wire()
        self.store: SqlStore[StoredEvent] = SqlStore(url, StoredEvent)
        self.hub = Hub(self.store, RESUME_S, directory=False, process_id=self.name)
        limits = Calls(ring_timeout_s=RING_S, grace_s=GRACE_S)
        self.calls = CallService(self.store, self.bus, limits, METRICS, self.hub.name_of)
        self.survivors = Survivors(
            self.store, self.calls, self.name, GRACE_S, lambda user_id: bool(self.hub.sessions(user_id))
        )
        self.bus.subscribe(self.hub.receive)
        link = MediaLink(self.hub, self.calls, NoMedia())  # type: ignore[arg-type]
        self.gateway = Gateway(Http(), [], AUTHORITY, self.hub, self.calls, link, METRICS)
        # Devices ring when they are told to.
        self.hub.on_delivered = None

    async def start(self) -> None:
        """Take up what is there, and look after the others."""
        await self.calls.start()
        await self.survivors.start()

    def run(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Run something that ends with this process."""
        return self._loop.create_task(work, context=self._context.copy())

    async def receive(self, entry: bytes) -> None:
        """Take what another process published."""
        event = decode_event(entry)
        self.bus.told[event.user_id] = max(self.bus.told[event.user_id], event.seq)
        await self.hub.receive(event)
        await self.calls.changed_elsewhere(event)


class Socket:
    """A connection, as the server sees it."""

    def __init__(self, device: "Device") -> None:
        self._device, self.is_open, self.patience = device, True, Patience(clock.now())
        self.dialect = PLAIN

    def send(self, frame: Document) -> None:
        if self.is_open:
            self._device.take(frame)

    def close(self, code: int, reason: str) -> None:
        self.is_open = False


@dataclass
class Device:
    """A page of a user, and all that it read since it began."""

    name: str
    slot: int
    process: Process | None = None
    socket: Socket | None = None
    session: Any = None
    token: str = ""
    frames: list[Document] = field(default_factory=list)
    # What its process had been told of when it began: that is in the snapshot.
    begun_at: int = 0

    @property
    def user(self) -> str:
        return self.name[0]

    @property
    def is_online(self) -> bool:
        return self.socket is not None and self.session is not None

    def take(self, frame: Document) -> None:
        if frame["type"] == "connected":
            self.token = frame["data"]["resume_token"]
            if not frame["data"]["resumed"]:
                self.frames.clear()
        self.frames.append(frame)

    async def connect(self, process: Process) -> None:
        """Open a socket, and resume where it stopped, if the process still knows it."""
        self.process, self.session, self.socket = process, None, Socket(self)
        seq = str(self.read().seq) if self.token else ""
        identity = Identity(self.user, self.user.upper(), 2e12, Grants())
        self.session = await process.gateway.begin(identity, self.socket, "ws://x/ws", self.token, seq)  # type: ignore[arg-type]
        if not next(f for f in reversed(self.frames) if f["type"] == "connected")["data"]["resumed"]:
            self.begun_at = process.bus.told[self.user]

    def cut(self, lost: int) -> None:
        """The connection is gone, and so are the last frames, which were on their way."""
        socket, self.socket = self.socket, None
        if socket is not None and self.process is not None:
            socket.is_open = False
            if self.session is not None:
                self.process.hub.detach(self.session, socket, for_good=False)  # type: ignore[arg-type]
        while lost and self.frames and "seq" in self.frames[-1]:
            self.frames.pop()
            lost -= 1

    def read(self) -> "Knowledge":
        """Return what a page makes of the frames."""
        known = Knowledge()
        for frame in self.frames:
            data = frame.get("data", {})
            if frame["type"] == "connected":
                assert not data["resumed"] or data["seq"] == known.seq, "resumed somewhere else"
                known.begin = data["seq"] if not data["resumed"] else known.begin
                known.seq = data["seq"]
            elif frame["type"] == "call.snapshot":
                known.rings = {c["id"] for c in data["calls"] if _state(c, self.user) in PENDING}
            elif "seq" in frame:
                assert frame["seq"] > known.seq, f"{self.name} was told {frame['seq']} after {known.seq}"
                known.seq = frame["seq"]
                known.events.append((frame["seq"], data["event_id"], frame["type"]))
                call = data["call"]
                if _state(call, self.user) not in PENDING:
                    known.rings.discard(call["id"])
                elif frame["type"] == "call.incoming":
                    known.rings.add(call["id"])
        return known


@dataclass
class Knowledge:
    """What a device knows: from which number on, up to which, what it read, for which calls it rings."""

    begin: int = 0
    seq: int = 0
    events: list[tuple[int, str, str]] = field(default_factory=list)
    rings: set[str] = field(default_factory=set)


def _state(document: Document, user: str) -> str:
    return next((p["state"] for p in document["participants"] if p["user_id"] == user), "")


@dataclass(frozen=True)
class Act:
    """Something that somebody does: a device (`b1`), or a request without one (`b@0`)."""

    kind: str
    who: str
    # Which call, counted back from the newest.
    back: int = 0
    # Whom it is about; the type of the call; of `place` also the key, after a colon.
    about: str = ""

    @property
    def user(self) -> str:
        return self.who[0]


# By kind: what the service is asked, and the pure function that tells what must come of it.
Ask = Callable[[CallService, str, str, str, str], Coroutine[Any, Any, Call]]
Make = Callable[[Call, str, str, str, datetime], Change]
KINDS: dict[str, tuple[Ask, Make]] = {
    "ring": (lambda s, c, u, d, x: s.ring(c, u, d), lambda c, u, d, x, at: acts.ring(c, u, d)),
    "answer": (lambda s, c, u, d, x: s.answer(c, u, d), lambda c, u, d, x, at: acts.answer(c, u, d, at)),
    "reject": (lambda s, c, u, d, x: s.reject(c, u, "no"), lambda c, u, d, x, at: acts.reject(c, u, "", at)),
    "cancel": (lambda s, c, u, d, x: s.cancel(c, u), lambda c, u, d, x, at: acts.cancel(c, u, at)),
    "end": (lambda s, c, u, d, x: s.end(c, u), lambda c, u, d, x, at: acts.end(c, u, at)),
    "leave": (lambda s, c, u, d, x: s.leave(c, u), lambda c, u, d, x, at: acts.leave(c, u, at)),
    "join": (lambda s, c, u, d, x: s.join(c, u), lambda c, u, d, x, at: acts.join(c, u, at)),
    # Only a device takes a place over, with its media.
    "move": (
        lambda s, c, u, d, x: s.move(c, u, d) if d else s.join(c, u),
        lambda c, u, d, x, at: acts.move(c, u, d) if d else acts.join(c, u, at),
    ),
    "remove": (lambda s, c, u, d, x: s.remove(c, u, x), lambda c, u, d, x, at: acts.remove(c, u, x, at)),
    "update": (lambda s, c, u, d, x: s.update(c, u, x), lambda c, u, d, x, at: acts.update(c, u, x)),
}

whos = st.sampled_from([*DEVICES, *REQUESTS])
crowds = st.sets(st.sampled_from(USERS), min_size=1, max_size=3).map(lambda users: "".join(sorted(users)))
backs = st.integers(0, 2)
slots = st.integers(0, 1)


def acts_of(kind: str) -> st.SearchStrategy[Act]:
    """Return acts of one kind."""
    about: st.SearchStrategy[str] = st.just("")
    if kind == "place":
        about = st.builds("{}:{}".format, crowds, st.sampled_from(["", "k", "l"]))
    elif kind == "invite":
        about = crowds
    elif kind in ("remove", "update"):
        about = st.sampled_from(USERS if kind == "remove" else ["voice", "video"])
    return st.builds(Act, st.just(kind), whos, st.just(0) if kind == "place" else backs, about)


GOING = ("reject", "cancel", "end", "leave", "remove")
ALL = ("place", "invite", *KINDS)


@functools.cache
def empty_database() -> bytes:
    """Return a database with the tables, and with a trigger that notes each version of each call."""
    with tempfile.TemporaryDirectory(prefix="sfu-search-") as folder:
        path = Path(folder) / "calls.db"

        async def make() -> None:
            store: SqlStore[StoredEvent] = SqlStore(f"sqlite+aiosqlite:///{path}", StoredEvent)
            await store.open()
            await store.close()

        asyncio.run(make())
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("CREATE TABLE seen (number INTEGER PRIMARY KEY, document TEXT)")
            for event in ("INSERT", "UPDATE"):
                database.execute(
                    f"CREATE TRIGGER seen_{event} AFTER {event} ON calls "
                    "BEGIN INSERT INTO seen (document) VALUES (new.document); END"
                )
            database.commit()
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return path.read_bytes()


class World:
    """The database, two processes on it, and the devices."""

    def __init__(self, loop: SteppedLoop, folder: str) -> None:
        self.loop = loop
        path = Path(folder) / "calls.db"
        path.write_bytes(empty_database())
        self._url = f"sqlite+aiosqlite:///{path}"
        # A reader of its own: what the store says of itself is not asked.
        self._database = sqlite3.connect(path)
        self._numbers = itertools.count(1)
        self.processes: list[Process] = []
        self.devices = {name: Device(name, slot) for name, slot in DEVICES.items()}
        # The documents of each call, one for each version that was kept, in order.
        self.versions: dict[str, list[Document]] = {}
        self.events: dict[str, list[StoredEvent]] = defaultdict(list)
        self._seen = 0
        # (user, key) → its call.
        self.keys: dict[tuple[str, str], str] = {}

    async def start(self) -> None:
        for _ in (0, 1):
            await self.begin()
        for device in self.devices.values():
            await self.connect(device, device.slot)

    async def begin(self, slot: int | None = None) -> None:
        """Start a process, in place of the one that was there."""
        process = Process(self.loop, self._url, next(self._numbers))
        self.processes[slot or 0 : 0 if slot is None else slot + 1] = [process]
        await self.done(process.run(process.start()))

    async def done(self, *tasks: "asyncio.Task[Any]") -> None:
        """Let everybody go on as far as they can; all that was begun must have come to its end."""
        await self.loop.quiet()
        for task in tasks:
            assert task.done(), f"{task} hangs"
            task.result()
        self.look()

    async def connect(self, device: Device, slot: int) -> None:
        device.cut(0)
        process = self.processes[slot]
        await self.done(process.run(device.connect(process)))

    def send(self) -> None:
        """What the processes published goes on its way to the others."""
        for process in self.processes:
            for other in self.processes:
                if other is not process:
                    other.inbox += process.bus.outbox
            process.bus.outbox.clear()

    async def crash(self, slot: int, *, is_lost: bool, down_s: float) -> None:
        """A process dies; another takes its place on the same database."""
        old = self.processes[slot]
        if is_lost:
            old.bus.outbox.clear()
        self.send()
        await self.loop.kill(old.name)
        for device in self.devices.values():
            if device.process is old:
                if device.socket is not None:
                    device.socket.is_open = False
                device.process = device.socket = device.session = None
        await old.store.close()
        await self.loop.pass_time(down_s)
        await self.begin(slot)

    async def close(self) -> None:
        for process in self.processes:
            await self.loop.kill(process.name)
            await process.store.close()
        self._database.close()

    # What the database says

    def look(self) -> None:
        """Read what was kept since the last look; what was seen before must still be there."""
        rows = self._database.execute(
            "SELECT number, document FROM seen WHERE number > ? ORDER BY number", (self._seen,)
        )
        for number, text in rows.fetchall():
            self._seen = number
            document = json.loads(text)
            self._check_version(document, self.versions.setdefault(document["id"], []))
        kept: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
        for row in self._database.execute(
            "SELECT user_id, seq, event_id, type, data, not_for FROM user_events ORDER BY user_id, seq"
        ):
            kept[row[0]].append(row)
        for user, found in kept.items():
            known = self.events[user]
            assert [row[1] for row in found] == list(range(1, len(found) + 1)), f"{user}: a hole"
            assert [row[2] for row in found[: len(known)]] == [e.event_id for e in known], (
                "what was kept changed"
            )
            for row in found[len(known) :]:
                known.append(StoredEvent(user, row[1], row[2], row[3], json.loads(row[4]), row[5]))
        for user, last in self._database.execute("SELECT id, last_seq FROM users"):
            assert last == len(self.events[user])

    def _check_version(self, new: Document, versions: list[Document]) -> None:
        assert new["version"] == len(versions) + 1, (
            f"{new['id']}: version {new['version']} after {len(versions)}"
        )
        before = versions[-1]["status"] if versions else "ringing"
        assert not versions or before != "ended", f"{new['id']}: written after its end"
        after = {before, *(str(to) for (status, _), to in CALL.items() if status == before)}
        assert new["status"] in after, f"{new['id']}: {before}, then {new['status']}"
        versions.append(new)

    def size(self) -> tuple[int, ...]:
        """Return how much was ever written."""
        self.look()
        counts = [
            self._database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("call_events", "notifications", "idempotency", "call_users")
        ]
        return (self._seen, sum(map(len, self.events.values())), *counts)

    def newest(self, back: int) -> str:
        made = list(self.versions)
        return made[-1 - back % len(made)]

    # Acts

    def place_of(self, act: Act) -> tuple[Process, str]:
        """Return the process to which an act comes, and the device; a page that is cut off uses REST."""
        device = self.devices.get(act.who)
        if device is not None and device.is_online and device.process is not None:
            return device.process, device.session.id
        return self.processes[device.slot if device is not None else int(act.who[-1])], NO_DEVICE

    def ask(self, act: Act) -> "asyncio.Task[Call]":
        """Begin an act."""
        process, device = self.place_of(act)
        if act.kind == "place":
            callees, key = act.about.split(":")
            return process.run(
                process.calls.initiate(
                    act.user,
                    act.user.upper(),
                    callee_ids=list(callees),
                    call_type="voice",
                    metadata={"key": key},
                    idempotency_key=key or None,
                )
            )
        call_id = self.newest(act.back)
        if act.kind == "invite":
            return process.run(process.calls.invite(call_id, act.user, list(act.about)))
        return process.run(KINDS[act.kind][0](process.calls, call_id, act.user, device, act.about))

    def expect(self, act: Act) -> Call | None:
        """Return what must come of an act on a call when nobody else acts; None: it is refused."""
        call, at = from_document(self.versions[self.newest(act.back)][-1]), clock.wallclock()
        try:
            if act.kind == "invite":
                invited = [Participant(user, user, invited_at=at) for user in act.about]
                return acts.invite(call, act.user, invited, self._busy(call.id)).call
            return KINDS[act.kind][1](call, act.user, self.place_of(act)[1], act.about, at).call
        except SfuError:
            return None

    def acts(self, kinds: Iterable[str]) -> st.SearchStrategy[Act]:
        """Return acts of these kinds: as often as not such as change something now."""
        likely = []
        for kind, who, back in itertools.product(
            kinds, (*DEVICES, *REQUESTS), range(min(2, len(self.versions)))
        ):
            for about in {"remove": USERS, "invite": USERS, "update": ("voice", "video")}.get(kind, ("",)):
                act = Act(kind, who, back, about)
                if kind != "place" and self.expect(act) not in (
                    None,
                    from_document(self.versions[self.newest(back)][-1]),
                ):
                    likely.append(act)
        by_kind = [
            st.sampled_from([a for a in likely if a.kind == kind])
            for kind in sorted({a.kind for a in likely})
        ]
        anything = st.one_of([acts_of(kind) for kind in kinds])
        return st.one_of(st.one_of(by_kind), anything) if by_kind else anything

    def _busy(self, but: str) -> frozenset[str]:
        running = [versions[-1] for call_id, versions in self.versions.items() if call_id != but]
        return frozenset(u for u in USERS for c in running if c["status"] != "ended" and _state(c, u) in IN)

    async def answer_of(self, task: "asyncio.Task[Call]") -> Call | SfuError:
        await self.loop.quiet()
        assert task.done(), f"{task} hangs"
        error = task.exception()
        if error is None:
            return task.result()
        if not isinstance(error, SfuError) or error.status >= 500 or error.retryable:
            raise error
        return error

    def check_key(self, act: Act, answer: Call | SfuError) -> None:
        key = act.about.partition(":")[2] if act.kind == "place" else ""
        if key and isinstance(answer, Call):
            known = self.keys.setdefault((act.user, key), answer.id)
            assert known == answer.id, "a key that stood for another call"


def _sketch(call: Call) -> Any:
    return (
        call.status,
        call.call_type,
        call.end_reason,
        [(p.user_id, p.state, p.devices) for p in call.participants],
    )


class TwoProcesses(RuleBasedStateMachine):
    """Whatever anybody does, in whichever order it is done."""

    def __init__(self) -> None:
        super().__init__()
        self._left = contextlib.ExitStack()
        self._is_broken = True
        folder = tempfile.mkdtemp(prefix="sfu-search-")
        self._left.callback(shutil.rmtree, folder, ignore_errors=True)
        self._logged = self._left.enter_context(structlog.testing.capture_logs())
        patch = self._left.enter_context(pytest.MonkeyPatch.context())
        loop = SteppedLoop()
        numbers = itertools.count(1)
        patch.setattr(clock, "now", loop.time)
        patch.setattr(clock, "wallclock", lambda: EPOCH + timedelta(seconds=loop.passed))
        patch.setattr(clock, "unix_seconds", lambda: EPOCH.timestamp() + loop.passed)
        patch.setattr(ids, "_random", lambda prefix: f"{prefix}_{next(numbers):08}")
        self._runner = asyncio.Runner(loop_factory=lambda: loop)
        self._left.callback(self._runner.close)
        self.world = World(loop, folder)
        self._left.callback(lambda: self._runner.run(self.world.close()))
        self._is_broken = False
        self.run(self.world.start())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return self._runner.run(work)
        except BaseException:
            self._is_broken = True
            raise

    @property
    def has_calls(self) -> bool:
        return bool(self.world.versions)

    # Acts, one at a time

    def do(self, act: Act) -> None:
        self.run(self._do(act))

    async def _do(self, act: Act) -> Call | SfuError:
        world = self.world
        size, is_on_a_call = world.size(), act.kind != "place"
        call_id = world.newest(act.back) if is_on_a_call else ""
        expected = world.expect(act) if is_on_a_call else None
        answer = await world.answer_of(world.ask(act))
        world.check_key(act, answer)
        if isinstance(answer, SfuError):
            assert world.size() == size, f"refused ({answer.code}), and something was written"
            assert expected is None, f"refused: {answer}"
            return answer
        world.look()
        kept = from_document(world.versions[answer.id][-1])
        if is_on_a_call:
            assert expected is not None, "this should have been refused"
            assert answer.id == call_id
            assert _sketch(kept) == _sketch(expected)
            assert kept.version == answer.version
        assert kept.version >= answer.version
        return answer

    @rule(act=acts_of("place"))
    def place(self, act: Act) -> None:
        self.do(act)

    @precondition(lambda self: self.has_calls)
    @rule(data=st.data())
    def ring(self, data: st.DataObject) -> None:
        self.do(data.draw(self.world.acts(["ring"])))

    @precondition(lambda self: self.has_calls)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        self.do(data.draw(self.world.acts(["answer"])))

    @precondition(lambda self: self.has_calls)
    @rule(data=st.data())
    def join(self, data: st.DataObject) -> None:
        self.do(data.draw(self.world.acts(["join"])))

    @precondition(lambda self: self.has_calls)
    @rule(data=st.data())
    def invite(self, data: st.DataObject) -> None:
        self.do(data.draw(self.world.acts(["invite"])))

    @precondition(lambda self: self.has_calls)
    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        self.do(data.draw(self.world.acts(GOING)))

    @precondition(lambda self: self.has_calls)
    @rule(data=st.data())
    def change(self, data: st.DataObject) -> None:
        self.do(data.draw(self.world.acts(["move", "update"])))

    @precondition(lambda self: self.has_calls)
    @rule(data=st.data())
    def twice(self, data: st.DataObject) -> None:
        """A client repeats what it does not know to have arrived."""
        act = data.draw(self.world.acts(["place", *KINDS]))

        async def twice() -> None:
            if isinstance(first := await self._do(act), SfuError) or act.about.endswith(":"):
                return
            back = list(reversed(self.world.versions)).index(first.id)
            size = self.world.size()
            again = await self._do(Act(act.kind, act.who, back, act.about))
            assert isinstance(again, Call), f"repeated, and refused: {again}"
            assert self.world.size() == size, "repeated, and written again"

        self.run(twice())

    # Several at a time

    @precondition(lambda self: self.has_calls)
    @rule(
        data=st.data(),
        schedule=st.lists(st.integers(0, 3), max_size=12),
        stall_s=st.sampled_from([0.0, 0.0, RING_S, DEAD_S]),
        comes=st.none() | st.sampled_from(sorted(DEVICES)),
    )
    def race(self, data: st.DataObject, schedule: list[int], stall_s: float, comes: str | None) -> None:
        """Two acts, perhaps a socket that opens, and the timers that are due, all at once."""
        first, second = (data.draw(self.world.acts(ALL)) for _ in range(2))
        self.run(self._race(first, second, schedule, stall_s, comes))

    async def _race(
        self, first: Act, second: Act, schedule: list[int], stall_s: float, comes: str | None
    ) -> None:
        world, size = self.world, self.world.size()
        world.loop.passed += stall_s
        world.loop.schedule = list(schedule)
        tasks = [world.ask(act) for act in (first, second)]
        connecting = None
        if comes is not None:
            device = world.devices[comes]
            device.cut(0)
            process = world.processes[device.slot]
            connecting = process.run(device.connect(process))
        answers = [await world.answer_of(task) for task in tasks]
        world.loop.schedule = []
        if connecting is not None:
            connecting.result()
        for act, answer in zip((first, second), answers, strict=True):
            world.check_key(act, answer)
        if not stall_s and connecting is None:
            done = sum(isinstance(answer, Call) for answer in answers)
            assert world.size()[0] - size[0] <= done, "more was changed than was done"

    # Sockets, the bus, the processes, time

    @rule(name=st.sampled_from(sorted(DEVICES)), lost=st.integers(0, 2))
    def cut(self, name: str, lost: int) -> None:
        async def cut() -> None:
            self.world.devices[name].cut(lost)

        self.run(cut())

    @rule(name=st.sampled_from(sorted(DEVICES)), slot=slots)
    def connect(self, name: str, slot: int) -> None:
        self.run(self.world.connect(self.world.devices[name], slot))

    @rule(slot=slots, picks=st.lists(st.integers(0, 4), min_size=1, max_size=3), is_kept=st.booleans())
    def deliver_some(self, slot: int, picks: list[int], is_kept: bool) -> None:
        """Some events reach a process, in any order; those that are kept come once more."""
        self.run(self._deliver(slot, picks, is_kept))

    @rule(slot=slots)
    def deliver(self, slot: int) -> None:
        self.run(self._deliver(slot, [0] * 1_000, False))

    async def _deliver(self, slot: int, picks: list[int], is_kept: bool) -> None:
        self.world.send()
        process = self.world.processes[slot]
        for pick in picks:
            if process.inbox:
                number = pick % len(process.inbox)
                entry = process.inbox[number] if is_kept else process.inbox.pop(number)
                await self.world.done(process.run(process.receive(entry)))

    @rule(slot=slots)
    def miss(self, slot: int) -> None:
        """What was on the way to a process is lost; it notices, and looks into the store."""

        async def miss() -> None:
            self.world.send()
            process = self.world.processes[slot]
            process.inbox.clear()
            await self.world.done(process.run(process.hub.catch_up_all()))

        self.run(miss())

    @precondition(lambda self: self.has_calls)
    @rule(
        data=st.data(),
        steps=st.integers(0, 8),
        is_lost=st.booleans(),
        down_s=st.sampled_from([0.0, 1.0, DEAD_S + 2 * BEAT_S]),
    )
    def crash(self, data: st.DataObject, steps: int, is_lost: bool, down_s: float) -> None:
        """A process dies in the middle of an act: before it is kept, or after, or while it is told."""
        act = data.draw(self.world.acts(ALL))

        async def crash() -> None:
            process = self.world.place_of(act)[0]
            # Nobody is left who would hear what comes of it.
            self.world.ask(act).add_done_callback(lambda task: task.cancelled() or task.exception())
            await self.world.loop.quiet(steps)
            slot = self.world.processes.index(process)
            await self.world.crash(slot, is_lost=is_lost, down_s=down_s)

        self.run(crash())

    @rule(seconds=st.sampled_from([0.5, BEAT_S, RESUME_S, RING_S, DEAD_S + GRACE_S]))
    def wait(self, seconds: float) -> None:
        self.run(self.world.loop.pass_time(seconds))

    # What always holds

    @invariant()
    def all_holds(self) -> None:
        self._is_broken = True
        self._check_what_is_kept()
        self._check_devices()
        self._check_log()
        self._is_broken = False

    def _check_what_is_kept(self) -> None:
        world = self.world
        world.look()
        made: Counter[tuple[str, str]] = Counter()
        for call_id, versions in world.versions.items():
            call = versions[-1]
            if call["metadata"]["key"]:
                made[call["initiator"], call["metadata"]["key"]] += 1
            for participant in call["participants"]:
                self._check_told(call_id, call, participant)
        assert max(made.values(), default=1) == 1, "one key, two calls"
        for (user, key), call_id in world.keys.items():
            assert world.versions[call_id][0]["initiator"] == user
            assert world.versions[call_id][0]["metadata"]["key"] == key

    def _check_told(self, call_id: str, call: Document, participant: Document) -> None:
        """Check what a participant was told of a call: that it rings, that it stopped, that it ended."""
        user, rings = participant["user_id"], False
        told = [event for event in self.world.events[user] if event.data["call"]["id"] == call_id]
        for event in told:
            state = _state(dict(event.data["call"]), user)
            assert event.data["call"]["version"] <= call["version"], "told, and not kept"
            if event.type == "call.incoming":
                assert state in PENDING
                assert not rings, "rung while it rings"
            rings = state in PENDING
        if participant["state"] not in PENDING:
            assert not rings, f"{user} still rings for {call_id}: {[e.type for e in told]}"
        is_over = call["status"] == Status.ENDED
        ends = [event.type for event in told].count("call.ended")
        assert ends == is_over, f"{user} was told {ends} ends of {call_id}"
        if is_over:
            assert told[-1].type == "call.ended"
            assert State(participant["state"]) not in PENDING | IN

    def _check_devices(self) -> None:
        world = self.world
        for device in world.devices.values():
            known = device.read()
            if not device.frames:
                continue
            session_id = device.frames[0]["data"]["session_id"]
            kept = world.events[device.user]
            until = known.seq
            if device.is_online and device.process is not None:
                told = device.process.bus.told[device.user]
                until = max(until, told if told > device.begun_at else 0)
                pending = {c for c, v in world.versions.items() if _state(v[-1], device.user) in PENDING}
                if max(until, device.begun_at) == len(kept):
                    assert known.rings <= pending, f"{device.name} rings for {known.rings - pending}"
            expected = [
                (e.seq, e.event_id, e.type)
                for e in kept
                if known.begin < e.seq <= until and e.not_for != session_id
            ]
            assert known.events == expected, f"{device.name} read something else than is kept"

    def _check_log(self) -> None:
        failures = [entry for entry in self._logged if entry["log_level"] == "error"]
        assert not failures, failures

    # The end

    def teardown(self) -> None:
        try:
            if not self._is_broken:
                self.run(self._come_to_an_end())
        finally:
            self._left.close()

    async def _come_to_an_end(self) -> None:
        """All are gone for good, and every call ends that somebody could tell to be empty.

        Who came by REST, or has not brought media yet, has no device, and may be anywhere as long as there
        are several processes: a call with nobody else in it ends when he has come once more, and is gone.
        """
        world = self.world
        await self._desert()
        for call_id, versions in world.versions.items():
            left = [p for p in versions[-1]["participants"] if p["state"] in PENDING | IN]
            assert not [p for p in left if p["devices"] or p["state"] in PENDING], f"{call_id}: {left}"
        world.devices["d1"] = Device("d1", 0)
        for device in world.devices.values():
            await world.connect(device, device.slot)
            assert not device.read().rings, f"{device.name} came back and rings"
        self._check_devices()
        await self._desert()
        for call_id, versions in world.versions.items():
            assert versions[-1]["status"] == "ended", f"{call_id} never ends: {versions[-1]}"

    async def _desert(self) -> None:
        """Cut every socket, and let all time limits pass."""
        for device in self.world.devices.values():
            device.cut(0)
        limits_s = RESUME_S + RING_S + DEAD_S + GRACE_S + 2 * BEAT_S + OVERDUE_S
        await self.world.loop.pass_time(limits_s)
        self._check_what_is_kept()
        self._check_log()


TwoProcesses.TestCase.settings = settings(
    max_examples=30,
    stateful_step_count=25,
    deadline=None,
    derandomize=False,
    print_blob=True,
    # A move takes some trips to a database: what is slow is the thing itself, not the making of examples.
    suppress_health_check=[HealthCheck.too_slow],
)
TestTwoProcesses = TwoProcesses.TestCase
