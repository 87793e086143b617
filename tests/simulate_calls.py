"""Calls by the hundred thousand on virtual time: cuts, crashes, races; then the books are balanced.

    python -m tests.simulate_calls --calls 100000 --seed 1

Everything behind the sockets is the real thing: gateway, hub, service, tables. The store is the one in
memory, slowed down by moments, so that acts overtake each other. Time passes only when nobody has
anything to do. Whatever happens:

1. every call ends, once, with one reason, and everybody who took part is told once;
2. no device rings for a call after it was told that the ringing is over, or that the call has ended;
3. every event comes to a device once and in order, over cuts and resumptions;
4. in the end all devices know of every call of theirs what the store knows.
"""

import argparse
import asyncio
import logging
import random
import selectors
import sys
import time
from collections import Counter
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from sfu import clock, jsontext
from sfu.auth import Grants, Identity, TokenAuthority
from sfu.bus.memory import MemoryBus
from sfu.calls.ports import StoredEvent
from sfu.calls.service import CallService
from sfu.calls.survivors import Survivors
from sfu.metrics import Metrics
from sfu.settings import Auth, Calls, Http
from sfu.signaling.dialects import PLAIN
from sfu.signaling.gateway import Gateway
from sfu.signaling.hub import Hub
from sfu.signaling.limits import Patience
from sfu.signaling.media_link import MediaLink
from sfu.store.memory import MemoryStore

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
RING_S, GRACE_S, RESUME_S = 20.0, 30.0, 30.0
USERS, CALLERS = 60, 12

# Shares of what may go wrong, each time that it could.
CUT, FOR_LONG, CRASH, DUPLICATE, UNTOLD = 0.06, 0.2, 0.0004, 0.1, 0.001

PENDING, IN = ("invited", "ringing"), ("answered", "joined")


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose time passes when nothing is ready."""

    def __init__(self) -> None:
        super().__init__(_NoWait(self))
        self.passed = 0.0

    def time(self) -> float:
        return self.passed


class _NoWait(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout:
            self._loop.passed += timeout
        return []  # there is no file and no thread that anything could come from


class Crashed(BaseException):
    """The server process is gone, in the middle of something."""


class SlowStore(MemoryStore[StoredEvent]):
    """A store that takes its time, before it does something and afterwards."""

    def __init__(self, world: "World") -> None:
        super().__init__(StoredEvent)
        self._world, self._chance = world, world.chance

    def _forget(self, call_id: str) -> None:
        self._world.audit(call_id)
        super()._forget(call_id)

    async def _moment(self) -> None:
        if self._chance.random() < 0.5:
            await asyncio.sleep(self._chance.random() * 0.01)

    async def load(self, call_id: str) -> Any:
        await self._moment()
        found = await super().load(call_id)
        await self._moment()
        return found

    async def commit(self, call: Any, events: Any, **more: Any) -> Any:
        await self._moment()
        stored = await super().commit(call, events, **more)
        self._world.placed += call["version"] == 1
        await self._moment()
        return stored

    async def events_after(self, user_id: str, seq: int) -> Any:
        await self._moment()
        found = await super().events_after(user_id, seq)
        await self._moment()
        return found


class CrashingBus(MemoryBus[StoredEvent]):
    """A bus that sometimes loses an event, as when a process dies between keeping and telling."""

    def __init__(self, world: "World") -> None:
        super().__init__()
        self._world = world

    async def publish(self, event: StoredEvent) -> None:
        fate = 1.0 if self._world.is_ending else self._world.chance.random()
        if fate < CRASH:
            self._world.crash()
            raise Crashed
        if fate < CRASH + UNTOLD:
            # Lost on the way: the next one, or the next connection, brings it.
            return
        await super().publish(event)


class NoMedia:
    """A media plane in which nobody is."""

    def remove(self, peer_id: str, reason: str) -> None: ...


class Process:
    """One life of the server."""

    def __init__(self, world: "World", number: int) -> None:
        name = f"{number:012x}"
        bus = CrashingBus(world)
        self.hub = Hub(world.store, RESUME_S, directory=False, process_id=name)
        settings = Calls(ring_timeout_s=RING_S, grace_s=GRACE_S)
        self.calls = CallService(world.store, bus, settings, world.metrics, self.hub.name_of)
        self.survivors = Survivors(
            world.store, self.calls, name, GRACE_S, lambda user_id: bool(self.hub.sessions(user_id))
        )
        bus.subscribe(self.hub.receive)
        link = MediaLink(self.hub, self.calls, NoMedia())  # type: ignore[arg-type]
        self.gateway = Gateway(Http(), [], world.authority, self.hub, self.calls, link, world.metrics)
        self.tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        await self.calls.start()
        await self.survivors.start()

    def run(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run work that ends with this process."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if not task.cancelled():
            error = task.exception()
            if error is not None and not isinstance(error, Crashed):
                raise error

    async def close(self) -> None:
        """Let nothing of it go on."""
        for task in list(self.tasks):
            task.cancel()
        await self.hub.close()
        await self.survivors.close()
        await self.calls.close()


class FakeSocket:
    """One connection: what the server sends goes to the device, in order, a little later."""

    def __init__(self, device: "Device", now: float) -> None:
        self.dialect = PLAIN
        self._device, self.is_open = device, True
        self.patience = Patience(now)

    def send(self, frame: dict[str, Any]) -> None:
        if self.is_open:
            self._device.inbox.put_nowait((self, jsontext.copied(frame)))

    def close(self, code: int, reason: str) -> None:
        self.is_open = False
        self._device.inbox.put_nowait((self, None))


class Device:
    """A page of a user: it rings, answers, is cut off and comes back."""

    def __init__(self, world: "World", user_id: str, number: int) -> None:
        self.world, self.user_id, self.name = world, user_id, f"{user_id}/{number}"
        self.identity = Identity(user_id, user_id.title(), 2e12, Grants())
        self.inbox: asyncio.Queue[tuple[FakeSocket, dict[str, Any] | None]] = asyncio.Queue()
        self.socket: FakeSocket | None = None
        self.session: Any = None
        self.resume, self.seq = "", 0
        # Call → its status as this device knows it; those that ring; those it is in.
        self.known: dict[str, str] = {}
        self.rings: set[str] = set()
        self.over: set[str] = set()
        self.event_ids: set[str] = set()
        self._request = 0

    # Connecting

    async def connect(self) -> None:
        """Open a socket, with the resume token of the last one."""
        process, self.session = self.world.process, None
        self.socket = FakeSocket(self, clock.now())
        seq = str(self.seq) if self.resume else ""
        self.session = await process.gateway.begin(self.identity, self.socket, "ws://x/ws", self.resume, seq)

    def cut(self) -> None:
        """The connection is gone, and neither side has said so."""
        socket, self.socket = self.socket, None
        if socket is not None:
            socket.is_open = False
            if self.session is not None:
                self.world.process.hub.detach(self.session, socket, for_good=False)

    async def live(self) -> None:
        """Be connected for a while, be cut off for a while, again and again."""
        chance = self.world.chance
        while not self.world.is_closing:
            try:
                if self.socket is None:
                    await self.world.process.run(self.connect())
            except (Crashed, asyncio.CancelledError):
                self.socket = None
                if self.world.is_closing:
                    return
            await asyncio.sleep(chance.uniform(1, 30))
            if chance.random() < CUT and not self.world.is_ending:
                self.cut()
                await asyncio.sleep(chance.uniform(30, 90) if chance.random() < FOR_LONG else chance.random())

    async def read(self) -> None:
        """Take what comes, in order."""
        while True:
            socket, frame = await self.inbox.get()
            if socket is not self.socket:
                continue  # it was still on the way when the connection was cut
            if frame is None:
                self.cut()
            else:
                self.take(frame)

    def take(self, frame: dict[str, Any]) -> None:
        """Follow one frame, as a page does."""
        type_, data = frame["type"], frame.get("data", {})
        if type_ == "connected":
            if not data["resumed"]:
                self.rings.clear()
            elif self.seq != data["seq"]:
                self.world.blame(f"{self.name} resumed at {data['seq']}, not {self.seq}")
            self.resume, self.seq = data["resume_token"], data["seq"]
        elif type_ == "call.snapshot":
            self._take_snapshot(data["calls"])
        elif "seq" in frame:
            self._take_event(frame["seq"], type_, data)
            self.ask("ack", {"seq": frame["seq"]})

    def _take_snapshot(self, calls: list[dict[str, Any]]) -> None:
        there = {call["id"] for call in calls}
        for call_id, status in self.known.items():
            if status != "ended" and call_id not in there:
                self.known[call_id] = "gone"  # it has ended, or is no concern of ours any more
        for call in calls:
            self.known[call["id"]] = call["status"]
            me = next(p for p in call["participants"] if p["user_id"] == self.user_id)
            if me["state"] in PENDING:
                self._ring(call["id"])
            elif me["state"] in IN:
                self.world.spawn(self._take_part(call["id"]))

    def _take_event(self, seq: int, type_: str, data: dict[str, Any]) -> None:
        if seq <= self.seq:
            self.world.blame(f"{self.name} was told {seq} after {self.seq}")
        self.seq = seq
        if data["event_id"] in self.event_ids:
            self.world.blame(f"{self.name} was told {data['event_id']} twice")
        self.event_ids.add(data["event_id"])
        call = data["call"]
        if self.known.get(call["id"]) == "ended" and call["status"] != "ended":
            self.world.blame(f"{self.name}: {call['id']} has ended, then {type_}")
        self.known[call["id"]] = call["status"]
        me = next((p for p in call["participants"] if p["user_id"] == self.user_id), None)
        if me is None or me["state"] not in PENDING:
            self.rings.discard(call["id"])
        elif type_ == "call.incoming":
            self._ring(call["id"])
        if type_ == "call.ended":
            self.world.ends[call["id"], self.user_id].add(data["event_id"])
        if type_ == "call.answered" and me is not None and me["state"] in IN:
            self.world.spawn(self._take_part(call["id"]))

    # Acting

    def ask(self, type_: str, data: dict[str, Any]) -> None:
        """Send a request, now and then twice."""
        socket, session, process = self.socket, self.session, self.world.process
        if socket is None or session is None or not socket.is_open:
            return
        self._request += 1
        text = jsontext.write({"type": type_, "id": self._request, "data": data})
        for _ in range(2 if self.world.chance.random() < DUPLICATE else 1):
            process.run(process.gateway.take_frame(text, session, socket))

    def _ring(self, call_id: str) -> None:
        self.rings.add(call_id)
        self.world.spawn(self._decide(call_id))

    async def _decide(self, call_id: str) -> None:
        """Look at a ringing call for a while; then answer it, refuse it, or let it ring."""
        chance = self.world.chance
        await asyncio.sleep(chance.uniform(0, RING_S * 1.1))
        if call_id in self.rings:
            act = chance.choices(["call.answer", "call.reject", None], [6, 2, 2])[0]
            if act is not None:
                self.ask(act, {"call_id": call_id})

    async def _take_part(self, call_id: str) -> None:
        """Be in a call for a while; then leave it, end it, or bring others."""
        chance = self.world.chance
        for _ in range(4):
            await asyncio.sleep(chance.uniform(0, 20))
            if self.known.get(call_id) != "active":
                return
            act = chance.choices(
                ["call.end", "call.leave", "call.invite", "call.update", "call.state"], [3, 3, 1, 1, 1]
            )[0]
            data: dict[str, Any] = {"call_id": call_id}
            if act == "call.invite":
                data["user_ids"] = [chance.choice(self.world.users)]
            elif act == "call.update":
                data["call_type"] = chance.choice(["voice", "video"])
            self.ask(act, data)

    async def place(self) -> None:
        """Call somebody, and perhaps give up."""
        chance = self.world.chance
        others = chance.sample(self.world.users, chance.choice([1, 1, 1, 2, 3]))
        self._request += 1
        self.ask(
            "call.initiate",
            {"callee_ids": others, "call_type": "voice", "idempotency_key": f"{self.name}-{self._request}"},
        )
        await asyncio.sleep(chance.uniform(0, RING_S * 1.2))
        mine = [call_id for call_id, status in self.known.items() if status == "ringing"]
        if mine and chance.random() < 0.4:
            self.ask(chance.choice(["call.cancel", "call.end", "call.leave"]), {"call_id": mine[-1]})


class World:
    """All users, their devices, and the server's lives one after the other."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.store = SlowStore(self)
        self.metrics = Metrics()
        self.authority = TokenAuthority(Auth(secret="s" * 32))
        self.users = [f"u{number}" for number in range(USERS)]
        self.violations: list[str] = []
        # (call, user) → ids of the events that told him of its end.
        self.ends: Any = _Sets()
        self.placed = self.crashes = self.audited = 0
        self.reasons: Counter[str] = Counter()
        self.is_ending = self.is_closing = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._crash_wanted = asyncio.Event()
        self.process = Process(self, 0)
        self.devices = [
            Device(self, user, number) for user in self.users for number in range(self.chance.randint(1, 3))
        ]

    def blame(self, what: str) -> None:
        """Note a violation."""
        self.violations.append(what)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run something of a device beside."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def crash(self) -> None:
        """Let the server die at this point."""
        self._crash_wanted.set()

    async def watch(self) -> None:
        """Bring a dead server up again on the same store."""
        while True:
            await self._crash_wanted.wait()
            self._crash_wanted.clear()
            self.crashes += 1
            old = self.process
            for device in self.devices:
                if device.socket is not None:
                    device.socket.is_open = False
                device.socket = device.session = None
            self.process = Process(self, self.crashes)
            await old.close()
            await self.process.start()

    async def run(self, calls: int, told: Any) -> None:
        """Let people call each other so often; then let all of it come to an end."""
        await self.process.start()
        self.spawn(self.watch())
        for device in self.devices:
            self.spawn(device.read())
            self.spawn(device.live())
        await asyncio.sleep(5)

        async def call_on() -> None:
            while self.placed < calls:
                told(self.placed)
                device = self.chance.choice(self.devices)
                if device.session is None:
                    await asyncio.sleep(0.1)
                else:
                    await device.place()

        await asyncio.gather(*(call_on() for _ in range(CALLERS)))
        # From here on nothing goes wrong; what was lost on the way comes with the next connection.
        self.is_ending = True
        await asyncio.sleep(120)
        for device in self.devices:
            device.cut()
        # Whoever is still in a call ends it.
        await asyncio.sleep(RING_S * 2 + GRACE_S + 100)
        for _ in range(5):
            for device in self.devices:
                for call_id, status in list(device.known.items()):
                    if status == "active":
                        device.ask("call.end", {"call_id": call_id})
            await asyncio.sleep(RING_S * 2 + GRACE_S)
        self.is_closing = True
        await self._balance()

    async def _balance(self) -> None:
        """Compare what devices know with what the store knows."""
        for call in await self.store.unfinished():
            self.blame(f"{call['id']} is {call['status']} for ever: {call['participants']}")
        for call_id in self.store._calls:
            self.audit(call_id)
        for device in self.devices:
            for call_id in device.rings:
                self.blame(f"{device.name} rings for {call_id}, which has ended long ago")

    def audit(self, call_id: str) -> None:
        """Check a call that is over, and forget what was noted of it."""
        call = self.store._calls[call_id]
        self.audited += 1
        self.reasons[call["end_reason"]] += 1
        ends = sum(row["type"] == "call.ended" for row in self.store._timelines[call_id])
        if (call["status"], ends) != ("ended", 1):
            self.blame(f"{call_id} is {call['status']} and ended {ends} times")
        for participant in call["participants"]:
            told = self.ends.pop((call_id, participant["user_id"]), set())
            if len(told) > 1:
                self.blame(f"{participant['user_id']} was told of {len(told)} ends of {call_id}")
            if participant["state"] in (*PENDING, *IN):
                self.blame(f"{call_id} has ended with {participant}")
        for device in self.devices:
            status = device.known.pop(call_id, "gone")
            if call_id in device.rings or status not in ("ended", "gone"):
                self.blame(
                    f"{device.name} believes that {call_id} is {status}, ringing: {call_id in device.rings}"
                )

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await self.process.close()


class _Sets(dict[Any, set[str]]):
    def __missing__(self, key: Any) -> set[str]:
        found = self[key] = set()
        return found


def simulate(calls: int, seed: int, told: Any = lambda _count: None) -> World:
    """Simulate so many calls on virtual time; return the world with its violations."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    loop = VirtualLoop()
    real = clock.now, clock.wallclock, clock.unix_seconds
    clock.now = loop.time
    clock.wallclock = lambda: EPOCH + timedelta(seconds=loop.time())
    clock.unix_seconds = lambda: EPOCH.timestamp() + loop.time()
    try:

        async def run() -> World:
            world = World(seed)
            await world.run(calls, told)
            await world.close()
            return world

        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            return runner.run(run())
    finally:
        clock.now, clock.wallclock, clock.unix_seconds = real
        structlog.reset_defaults()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.monotonic()

    shown = 0

    def told(count: int) -> None:
        nonlocal shown
        if count < shown + 1_000:
            return
        shown = count
        rate = count / max(0.01, time.monotonic() - began)
        left = (options.calls - count) / max(rate, 0.01)
        sys.stderr.write(f"\r{count} of {options.calls} calls, about {left / 60:.1f} min left ")
        sys.stderr.flush()

    world = simulate(options.calls, options.seed, told)
    elapsed = time.monotonic() - began
    print(
        f"\n{world.audited} calls, seed {options.seed}, {len(world.devices)} devices, "
        f"{world.crashes} crashes, {elapsed:.0f} s: {len(world.violations)} violations"
    )
    print(", ".join(f"{reason} {count}" for reason, count in world.reasons.most_common()))
    for violation in world.violations[:20]:
        print(f"  {violation}")
    return 1 if world.violations else 0


if __name__ == "__main__":
    raise SystemExit(main())
