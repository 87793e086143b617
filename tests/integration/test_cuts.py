"""A socket cut at every step of every scenario: each event comes once and in order, and both ends agree."""

import asyncio
from datetime import timedelta

import pytest

from sfu import clock
from tests import simulate_calls
from tests.simulate_calls import EPOCH, RING_S, Device, Process, SlowStore, VirtualLoop, World

# Each step: who does what; `wait` lets so many seconds pass.
SCENARIOS = {
    "answered and ended": ["ada initiate bob", "bob answer", "ada end"],
    "answered and left": ["ada initiate bob", "bob answer", "bob leave"],
    "rejected": ["ada initiate bob", "bob reject"],
    "cancelled": ["ada initiate bob", "ada cancel"],
    "missed": ["ada initiate bob", f"wait {RING_S + 5}"],
    "two devices": ["ada initiate bob", "bob2 answer", "ada update", "bob2 end"],
    "a third one": ["ada initiate bob", "bob answer", "ada invite eve", "eve answer", "bob leave", "eve end"],
    "busy": ["ada initiate bob", "bob answer", "eve initiate bob", "bob end"],
    "one after the other": [
        "ada initiate bob",
        "bob reject",
        "bob initiate ada",
        "ada answer",
        "ada end",
    ],
}


class Scripted(Device):
    """A device that does what it is told, and loses its connection at one frame."""

    def __init__(self, world, user_id, number):
        super().__init__(world, user_id, number)
        self.frames = 0
        # The frame at which it is cut, and whether it has seen it by then; -1: never.
        self.cut_at, self.has_seen = -1, False
        self.seen = []
        self.is_away = asyncio.Event()
        self.is_away.set()

    def cut(self):
        super().cut()
        self.is_away.set()

    def take(self, frame):
        self.frames += 1
        is_cut = self.frames == self.cut_at
        if is_cut and not self.has_seen:
            self.cut()
            return
        if "seq" in frame:
            self.seen.append((frame["seq"], frame["data"]["event_id"]))
        super().take(frame)
        if is_cut:
            self.cut()

    def _ring(self, call_id):
        self.rings.add(call_id)

    async def _take_part(self, call_id):
        pass


class Stage(World):
    """A server and four devices, with nothing left to chance."""

    def __init__(self):
        super().__init__(1)
        self.is_ending = True
        self.store = SlowStore(self)
        self.process = Process(self, 0)
        names = {"ada": ("ada", 0), "bob": ("bob", 0), "bob2": ("bob", 1), "eve": ("eve", 0)}
        self.by_name = {name: Scripted(self, *place) for name, place in names.items()}
        self.devices = list(self.by_name.values())

    async def play(self, steps, name, cut_at, has_seen):
        """Go through a scenario, with one device cut at one frame; return how many frames it got."""
        self.by_name[name].cut_at, self.by_name[name].has_seen = cut_at, has_seen
        await self.process.start()
        for device in self.devices:
            self.spawn(device.read())
            self.spawn(self.keep_connected(device))
        await asyncio.sleep(1)
        for step in steps:
            who, act, *whom = step.split()
            if who == "wait":
                await asyncio.sleep(float(act))
            else:
                await self.act(self.by_name[who], act, whom)
            await asyncio.sleep(2)
        await asyncio.sleep(RING_S + 5)
        return self.by_name[name].frames

    async def keep_connected(self, device):
        while True:
            await device.is_away.wait()
            device.is_away.clear()
            await asyncio.sleep(0.05)
            await device.connect()

    async def act(self, device, act, whom):
        open_calls = await self.process.calls.open_calls(device.user_id)
        data = {"call_id": open_calls[-1].id} if open_calls else {}
        if act == "initiate":
            data = {"callee_ids": whom, "call_type": "voice"}
        elif act == "invite":
            data["user_ids"] = whom
        elif act == "update":
            data["call_type"] = "video"
        while device.session is None or device.socket is None:
            await asyncio.sleep(0.05)
        device.ask(f"call.{act}", data)

    async def check(self):
        """Everybody got what the log has for him, once and in order, and knows how each call stands."""
        assert self.violations == []
        for device in self.devices:
            log = await self.store.events_after(device.user_id, 0)
            wanted = [(e.seq, e.event_id) for e in log if e.not_for != device.session.id]
            assert device.seen == wanted
            assert device.rings == set()
            for call_id, status in device.known.items():
                assert status == (await self.store.load(call_id))["status"] == "ended"


def play(steps, name, cut_at, has_seen, monkeypatch):
    loop = VirtualLoop()
    monkeypatch.setattr(clock, "now", loop.time)
    monkeypatch.setattr(clock, "wallclock", lambda: EPOCH + timedelta(seconds=loop.time()))
    monkeypatch.setattr(clock, "unix_seconds", lambda: EPOCH.timestamp() + loop.time())
    monkeypatch.setattr(simulate_calls, "DUPLICATE", 0)

    async def run():
        stage = Stage()
        frames = await stage.play(steps, name, cut_at, has_seen)
        await stage.check()
        await stage.close()
        return frames

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(run())


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_cut_at_any_frame_loses_nothing(scenario, monkeypatch):
    """Before the frame is seen, and after it was seen while its ack is on the way; at each device."""
    steps = SCENARIOS[scenario]
    cuts = 0
    for name in ("ada", "bob", "bob2", "eve"):
        frames = play(steps, name, -1, False, monkeypatch)
        for cut_at in range(1, frames + 1):
            for has_seen in (False, True):
                play(steps, name, cut_at, has_seen, monkeypatch)
                cuts += 1
    assert cuts > 20
