"""Several server processes, crashes, and a Redis that goes away: calls go on, or end with one event."""

import asyncio
import os
import signal
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from sfu.auth import mint
from sfu.bot.client import Client, Disconnected, Refused
from sfu.calls.ports import StoredEvent
from sfu.store.sql import SqlStore
from tests.support import backends
from tests.support.process import server_process

SECRET = "a secret of more than thirty-two bytes"

# How long most calls ring, and who was cut may be away: a machine with much else to do has to start a server
# and connect forty people in that time.
RING_S, GRACE_S = 12, 8
# And how long those ring that are to be answered.
LONG_RING_S = 100


@pytest.fixture
def database(tmp_path):
    return f"sqlite+aiosqlite:///{tmp_path}/calls.db"


@pytest.fixture
def redis():
    with backends.redis() as server:
        yield server


def serve(database, bus="memory://", **settings):
    """A server process that is not for development."""
    return server_process(
        "-m",
        "sfu",
        "serve",
        SFU_HTTP__HOST="127.0.0.1",
        SFU_MEDIA__LISTEN_IP="127.0.0.1",
        SFU_AUTH__SECRET=SECRET,
        SFU_STORE__URL=database,
        SFU_BUS__URL=bus,
        **settings,
    )


@asynccontextmanager
async def crowd():
    """Opens sockets of users, and closes them; each one's events came once and in order."""
    numbers = []
    async with AsyncExitStack() as stack:

        async def come(server, user, **options):
            client = Client(server.ws_url, mint(user, secret=SECRET), **options)
            seen = []
            numbers.append(seen)
            client.on_event(lambda frame: seen.append(frame["seq"]) if "seq" in frame else None)
            return await stack.enter_async_context(client)

        yield come
    for seen in numbers:
        assert seen == sorted(set(seen))


async def status(server, path):
    async with aiohttp.ClientSession() as http, http.get(server.url + path) as response:
        return response.status, await response.json()


async def until_ready(server, expected, timeout=20):
    """Wait until `/readyz` says so; liveness never wavers."""
    async with asyncio.timeout(timeout):
        while (await status(server, "/readyz"))[1]["status"] != expected:
            assert (await status(server, "/healthz"))[0] == 200
            await asyncio.sleep(0.05)


async def test_users_of_one_call_on_two_processes(database, redis):
    """Each act on one is an event on the other."""
    async with (
        serve(database, redis.url) as one,
        serve(database, redis.url) as two,
        crowd() as come,
    ):
        await until_ready(one, "ready")
        await until_ready(two, "ready")
        ada, bob = await come(one, "ada"), await come(two, "bob")
        for number in range(20):
            call = (await ada.request("call.initiate", {"callee_ids": ["bob"], "call_type": "voice"}))["call"]
            await bob.wait_for("call.incoming", lambda data, call=call: data["call"]["id"] == call["id"])
            await ada.wait_for("call.ringing")
            await bob.request("call.answer", {"call_id": call["id"]})
            answered = await ada.wait_for("call.answered")
            assert answered["data"]["by"] == "bob"
            who = ada if number % 2 else bob
            await who.request("call.end", {"call_id": call["id"]})
            for client in (ada, bob):
                ended = await client.wait_for("call.ended")
                assert ended["data"]["call"]["id"] == call["id"]


async def test_redis_goes_away_and_comes_back(database, redis):
    """Liveness stays, readiness does not; what was acknowledged meanwhile arrives when it is back."""
    async with (
        serve(database, redis.url) as one,
        serve(database, redis.url) as two,
        crowd() as come,
    ):
        await until_ready(one, "ready")
        await until_ready(two, "ready")
        ada, bob = await come(one, "ada"), await come(two, "bob")
        eve = await come(one, "eve")
        redis.stop()
        await until_ready(one, "bus_away")
        await until_ready(two, "bus_away")
        placed = [
            (await ada.request("call.initiate", {"callee_ids": [callee], "call_type": "voice"}))["call"]["id"]
            for callee in ("bob", "eve")
        ]
        # Users of the same process are told all the same.
        assert (await eve.wait_for("call.incoming"))["data"]["call"]["id"] == placed[1]
        redis.start()
        assert (await bob.wait_for("call.incoming", timeout=15))["data"]["call"]["id"] == placed[0]
        await until_ready(one, "ready")
        await until_ready(two, "ready")
        await bob.request("call.reject", {"call_id": placed[0]})
        assert (await ada.wait_for("call.rejected"))["data"]["by"] == "bob"


async def test_the_process_of_the_store_dies_while_a_call_rings(database):
    """It is started again, nobody loses an event, and no call."""
    async with serve(database) as server, crowd() as come:
        await until_ready(server, "ready")
        ada, bob = await come(server, "ada"), await come(server, "bob")
        request = {"callee_ids": ["bob"], "call_type": "voice"}
        call = (await ada.request("call.initiate", request))["call"]
        await bob.wait_for("call.incoming")
        await ada.wait_for("call.ringing")
        os.kill(store_of(server), signal.SIGKILL)
        async with asyncio.timeout(20):
            while True:
                try:
                    await bob.request("call.answer", {"call_id": call["id"]})
                    break
                except Refused as error:
                    assert error.code == "store_away"
                    assert error.retryable
                    await asyncio.sleep(0.1)
        assert (await ada.wait_for("call.answered"))["data"]["by"] == "bob"
        await until_ready(server, "ready")
        await ada.request("call.end", {"call_id": call["id"]})
        await bob.wait_for("call.ended")
        assert [entry["event"] for entry in server.log if entry["event"].startswith("store")] == [
            "store_gone"
        ]


def store_of(server):
    """The process that works on a server's database."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    (found,) = [pid for pid in children if "sfu.store.process" in Path(f"/proc/{pid}/cmdline").read_text()]
    return int(found)


async def test_a_process_that_dies_takes_its_users_out_of_their_calls(database, redis):
    """The other end, on another process, is told once they have not come back."""
    async with (
        serve(database, redis.url, SFU_CALLS__GRACE_S="1") as one,
        serve(database, redis.url, SFU_CALLS__GRACE_S="1") as two,
        crowd() as come,
    ):
        await until_ready(one, "ready")
        await until_ready(two, "ready")
        ada, bob = await come(one, "ada"), await come(two, "bob")
        eve = await come(two, "eve")
        call = (await bob.request("call.initiate", {"callee_ids": ["ada"], "call_type": "voice"}))["call"]
        await ada.wait_for("call.incoming")
        await ada.request("call.answer", {"call_id": call["id"]})
        await bob.wait_for("call.answered")
        # A ring that the dead process would have timed out is ended by the living one.
        ring = {"callee_ids": ["eve"], "call_type": "voice", "ring_timeout_s": 2}
        await ada.request("call.initiate", ring)
        await eve.wait_for("call.incoming")
        await one.kill()
        assert (await eve.wait_for("call.missed", timeout=20))["data"]["call"]["initiator"] == "ada"
        ended = await bob.wait_for("call.ended", timeout=40)
        assert ended["data"]["call"]["id"] == call["id"]


async def place_calls(server, come, ringing, running, to_answer):
    """Place calls of two; return their ids by name. Those that are to be answered later ring for long."""
    placed = {}
    # Who rings shortly begins last: all of them still ring when the server dies.
    for name in (*running, *to_answer, *ringing):
        caller, callee = await come(server, f"{name}-a"), await come(server, f"{name}-b")
        request = {"callee_ids": [f"{name}-b"], "call_type": "voice"}
        request["ring_timeout_s"] = LONG_RING_S if name in to_answer else RING_S
        placed[name] = (await caller.request("call.initiate", request))["call"]["id"]
        await caller.wait_for("call.ringing")
        if name in running:
            await callee.request("call.answer", {"call_id": placed[name]})
            await caller.wait_for("call.answered")
    return placed


async def how_they_end(database, placed, going_on):
    """Wait until no more calls are open than go on; return the status and number of ends of each."""
    store = SqlStore(database, StoredEvent)
    await store.open()
    async with asyncio.timeout(60):
        while len(await store.unfinished()) > going_on:
            await asyncio.sleep(0.2)
    found = {}
    for name, call_id in placed.items():
        ends = Counter(row["type"] for row in await store.timeline(call_id))["call.ended"]
        found[name] = ((await store.load(call_id))["status"], ends)
    await store.close()
    return found


async def test_a_crash_while_calls_ring_and_run(database):
    """Fifty ring, twenty run; after the restart each goes on, or ends with one event in time."""
    ringing, running = [f"ring{n}" for n in range(45)], [f"run{n}" for n in range(20)]
    to_answer = [f"answered{n}" for n in range(5)]
    async with serve(database, SFU_CALLS__GRACE_S=str(GRACE_S)) as server, crowd() as come:
        placed = await place_calls(server, come, ringing, running, to_answer)
        await server.kill()
    async with serve(database, SFU_CALLS__GRACE_S=str(GRACE_S)) as server, crowd() as come:
        # Of both kinds some come back, at both ends or at one, first those whose time runs; others never do.
        back = {}
        for name in (*running[:9], *ringing[:5], *to_answer):
            for end in "ab":
                back[name, end] = await come(server, f"{name}-{end}")
        alone = await come(server, f"{running[9]}-a")
        for name in to_answer:
            snapshot = await back[name, "b"].wait_for("call.snapshot")
            assert [call["id"] for call in snapshot["data"]["calls"]] == [placed[name]]
            await back[name, "b"].request("call.answer", {"call_id": placed[name]})
            await back[name, "a"].wait_for("call.answered")
        for name in ringing[:5]:
            ended = await back[name, "a"].wait_for("call.ended", timeout=2 * RING_S)
            assert ended["data"]["end_reason"] == "missed"
        assert (await alone.wait_for("call.ended", timeout=20))["data"]["end_reason"] == "completed"
        goes_on = {*to_answer, *running[:9]}
        for name, found in (await how_they_end(database, placed, len(goes_on))).items():
            assert found == (("active", 0) if name in goes_on else ("ended", 1)), name
        for name in goes_on:
            await back[name, "a"].request("call.end", {"call_id": placed[name]})
            for end in "ab":
                await back[name, end].wait_for("call.ended")


async def test_a_socket_that_is_cut_by_the_crash_says_so(database):
    """Clients see it, and can begin again at once."""
    async with serve(database) as server, crowd() as come:
        ada = await come(server, "ada")
        await server.kill()
        with pytest.raises((Disconnected, ConnectionError)):
            await ada.wait_for("call.incoming")
