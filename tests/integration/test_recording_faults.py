"""Recorders and servers that are killed, disks that fail: what was recorded stays, and is proven."""

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import aiohttp
import pytest

from tests.support.recording import (
    SECOND,
    Recorded,
    disk,
    holes,
    kill,
    last_ms,
    made_until_ms,
    ms_of,
    on_stage,
    recorder_pid,
    recording_server,
    sealed_recordings,
    see_each_other,
    together,
    until,
)

# How often the recorder is killed in the middle of a call.
KILLS = int(os.environ.get("SFU_TEST_KILLS", "10"))

# At most this much is missing at the end of what was killed, in milliseconds; and of what was on a disk that
# forgot what it had not written: what came since the last checkpoint.
LOST_MS, FORGOTTEN_MS = 1000, 2500

# Somebody is told of trouble so soon.
ALARM_S = 5.0


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "kept"


@pytest.fixture
def database(tmp_path):
    return f"sqlite+aiosqlite:///{tmp_path}/calls.db"


async def test_a_recorder_that_is_killed_loses_a_second_at_most(folder):
    """Again and again in one call, which goes on: what there was is sealed, and a new recording begins."""
    chance = random.Random(7)
    killed = []
    async with recording_server(folder, restart_s=0.05) as server, on_stage(server) as stage:
        ada, bob = await stage.people("ada", "bob")
        call = await stage.talk(ada, bob)
        for _ in range(KILLS):
            recording_id = await ada.recording("active", beside={before for before, _, _ in killed})
            await asyncio.sleep(chance.uniform(0, 2))
            pid = recorder_pid(server)
            assert pid is not None
            killed.append((recording_id, ada.video.frames, made_until_ms(ada, bob)))
            kill(pid)
        last = await ada.recording("active", beside={before for before, _, _ in killed})
        await bob.sees(SECOND // 2)
        await ada.client.request("call.end", {"call_id": call["id"]})
        assert await bob.recording("sealed") == last
        assert ada.missed == bob.missed == 0
    states = ["requested", "starting", "active"]
    for recording_id, _, _ in killed:
        assert ada.states(recording_id) == bob.states(recording_id) == [*states, "failed", "sealed"]
    assert ada.states(last) == [*states, "finishing", "sealed"]
    found = sealed_recordings(folder)
    assert set(found) == {last, *(recording_id for recording_id, _, _ in killed)}
    for recording_id, pictures, at_ms in killed:
        assert found[recording_id].manifest["end_reason"] == "crash"
        is_whole(found[recording_id], pictures, at_ms)
    assert found[last].problems == []
    assert found[last].manifest["end_reason"] == "call_ended"
    names = [recording_id for recording_id, _, _ in killed] + [last]
    for before, after in pairwise(names):
        assert found[after].manifest["previous"]["recording_id"] == before


def is_whole(recorded: Recorded, pictures: int, at_ms: float, lost_ms: int = LOST_MS) -> None:
    """Check a recording that was cut off; so many pictures, and everything until `at_ms`, had been made."""
    assert recorded.problems == []
    began = ms_of(recorded.manifest["started_at"])
    for file in recorded.manifest["files"]:
        path, start_ms = recorded.folder / file["name"], began + file["start_ms"]
        # What began only just before holds no more than its beginning.
        if at_ms - start_ms > lost_ms:
            assert start_ms + last_ms(path) >= at_ms - lost_ms, file
    if at_ms - began > 2 * lost_ms:
        assert len(recorded.manifest["files"]) == 4
    numbers = recorded.pictures("ada")
    assert holes(numbers) == []
    if numbers and pictures - numbers[0] > SECOND * lost_ms / 1000:
        assert numbers[-1] >= pictures - SECOND * lost_ms / 1000


async def test_what_a_server_leaves_that_is_killed_or_stopped_is_sealed(folder, database):
    """The recorder sees that it is gone; the next server on the database tells how it ended."""
    async with recording_server(folder, SFU_STORE__URL=database) as server, on_stage(server) as stage:
        ada, bob = await stage.people("ada", "bob")
        await stage.talk(ada, bob)
        first = await ada.recording("active")
        await see_each_other(ada, bob, pictures=SECOND)
        numbers, at_ms = ada.video.frames, made_until_ms(ada, bob)
        await server.kill()
        one = await until(lambda: sealed_recordings(folder).get(first))
    assert one.manifest["end_reason"] == "server_gone"
    is_whole(one, numbers, at_ms)
    async with recording_server(folder, SFU_STORE__URL=database) as server, on_stage(server) as stage:
        rest = stage.rest("boss", admin=True)
        assert (await rest("POST", f"/recordings/{first}/verify"))[1]["is_right"]
        # The two of before are still in their call.
        cat, dan, eve, fay = await stage.people("cat", "dan", "eve", "fay")
        await asyncio.gather(stage.talk(cat, dan), stage.talk(eve, fay))
        ours = await cat.recording("active")
        others = {ours, await eve.recording("active")}
        await see_each_other(cat, dan, eve, fay, pictures=SECOND)
        numbers = cat.video.frames
        server.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(server.process.wait(), 20) == 0
    found = sealed_recordings(folder)
    assert set(found) == {first, *others}
    for recording_id in others:
        assert found[recording_id].problems == []
        # Whose socket is closed may have left the call before its recording is.
        assert found[recording_id].manifest["end_reason"] in ("server_stopped", "call_ended")
        assert len(found[recording_id].manifest["files"]) == 4
    assert found[ours].pictures("cat")[-1] >= numbers - 2
    async with recording_server(folder, SFU_STORE__URL=database) as server, on_stage(server) as stage:
        _, page = await stage.rest("boss", admin=True)("GET", "/recordings")
        assert {(r["id"], r["state"], r["end_reason"]) for r in page["recordings"]} == {
            (first, "sealed", "server_gone"),
            *(
                (recording_id, "sealed", found[recording_id].manifest["end_reason"])
                for recording_id in others
            ),
        }


@pytest.mark.parametrize(("kind", "codes"), [("tmpfs", {"ENOSPC"}), ("ext4", {"EROFS", "EIO"})])
async def test_a_disk_that_takes_nothing_more(tmp_path, kind, codes):
    """It is told at once; the call goes on, or ends where it must not; what is on the disk is sealed."""
    await together(
        *(a_disk_fails(tmp_path / required, kind, codes, required) for required in ("no", "during"))
    )


async def a_disk_fails(path: Path, kind: str, codes: set[str], required: str) -> None:
    settings = {
        "SFU_STORE__URL": f"sqlite+aiosqlite:///{path}/calls.db",
        "SFU_RECORDER__REQUIRED": required,
    }
    with disk(path / "disk", kind) as small:
        folder = small.path
        async with recording_server(folder, **settings) as server, on_stage(server) as stage:
            ada, bob = await stage.people("ada", "bob")
            call = await stage.talk(ada, bob)
            recording_id = await ada.recording("active")
            await see_each_other(ada, bob, pictures=3 * SECOND)
            pictures, at_ms = ada.video.frames, made_until_ms(ada, bob)
            await asyncio.to_thread(small.fill if kind == "tmpfs" else small.make_read_only)
            for person in (ada, bob):
                assert await person.recording("failed", timeout=5) == recording_id
                assert person.told[-1]["recording"]["error"] in codes
            assert "recording_broken" not in {entry["event"] for entry in server.log}
            if required == "during":
                ended = await bob.client.wait_for("call.ended")
                assert ended["data"]["end_reason"] == "recording_failed"
            else:
                await bob.sees(SECOND)
                assert ada.missed == bob.missed == 0
                await ada.client.request("call.end", {"call_id": call["id"]})
                ended = await bob.client.wait_for("call.ended")
                assert ended["data"]["end_reason"] == "completed"
            files = list((folder / "recordings" / recording_id).glob("*.mk?"))
            assert len(files) == 4
            assert min(last_ms(file) for file in files) > 400
        if kind == "tmpfs":
            small.empty()
        else:
            small.unmount()
            small.mount()
        async with recording_server(folder, **settings) as server, on_stage(server) as stage:
            rest = stage.rest("ada", record=True)
            _, told = await rest("GET", f"/recordings/{recording_id}")
            assert (told["state"], told["end_reason"]) == ("sealed", "crash")
            assert (await rest("POST", f"/recordings/{recording_id}/verify"))[1]["is_right"]
        lost_ms = LOST_MS if kind == "tmpfs" else FORGOTTEN_MS
        is_whole(sealed_recordings(folder)[recording_id], pictures, at_ms, lost_ms)


async def test_a_call_goes_on_and_is_recorded_while_the_store_is_away(folder, database, tmp_path):
    """What is asked meanwhile is refused and changes nothing; it heals by itself, and nothing is missing."""
    async with recording_server(folder, SFU_STORE__URL=database) as server, on_stage(server) as stage:
        ada, bob = await stage.people("ada", "bob")
        call = await stage.talk(ada, bob)
        recording_id = await ada.recording("active")
        boss = stage.rest("boss", admin=True)

        async def readiness(status: int) -> bool:
            async with aiohttp.ClientSession() as http, http.get(server.url + "/readyz") as response:
                return response.status == status

        with closing(sqlite3.connect(tmp_path / "calls.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            began = time.monotonic()
            assert await until(lambda: readiness(503))
            assert time.monotonic() - began <= ALARM_S
            assert "store_away" in {entry["event"] for entry in server.log}
            assert (await server.metrics())["sfu_store_up"] == 0
            status, refused = await boss("POST", f"/calls/{call['id']}/recording", {"action": "pause"})
            assert (status, refused["code"]) == (503, "store_away")
            await bob.sees(SECOND)
            other.execute("ROLLBACK")
        assert await until(lambda: readiness(200))
        assert (await server.metrics())["sfu_store_up"] == 1
        at = len(ada.told)
        assert (await boss("POST", f"/calls/{call['id']}/recording", {"action": "pause"}))[0] == 200
        assert await ada.recording("paused") == recording_id
        assert (await boss("POST", f"/calls/{call['id']}/recording", {"action": "resume"}))[0] == 200
        assert await ada.recording("active") == recording_id
        assert {told["state"] for told in ada.told[at:]} == {"active", "paused"}
        await bob.sees(SECOND // 2)
        await ada.client.request("call.end", {"call_id": call["id"]})
        assert await bob.recording("sealed") == recording_id
        assert ada.missed == bob.missed == 0
    found = sealed_recordings(folder)[recording_id]
    assert found.problems == []
    assert found.manifest["end_reason"] == "call_ended"
    # If pictures fell into the pause, they are all that is missing.
    assert len({number - at for at, number in enumerate(holes(found.pictures("ada")))}) <= 1


async def test_no_call_rings_while_there_is_no_recorder(folder):
    """Where each must be recorded from its beginning; when the recorder is back, it rings."""
    async with (
        recording_server(folder, SFU_RECORDER__REQUIRED="before_ring") as server,
        on_stage(server) as stage,
    ):
        ada = stage.rest("ada")

        async def place(expected: int) -> dict | None:
            status, told = await ada("POST", "/calls/initiate", {"callee_ids": ["bob"]})
            return told if status == expected else None

        assert await place(201)
        pid = recorder_pid(server)
        assert pid is not None
        kill(pid)
        refused = await until(lambda: place(503), timeout=1)
        assert refused["code"] == "recorder_away"
        assert await until(lambda: place(201))


async def test_a_server_that_cannot_record_does_not_start(tmp_path):
    """It says why, with the name of the setting."""
    (tmp_path / "file").touch()
    environment = {
        "SFU_RECORDER__PATH": str(tmp_path / "file" / "kept"),
        "SFU_RECORDER__MODE": "always",
        "SFU_HTTP__PORT": "0",
        "SFU_MEDIA__UDP_PORT": "0",
        "SFU_MEDIA__TCP_PORT": "0",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "sfu", "serve", "--dev"),
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
    )
    try:
        _, said = await asyncio.wait_for(process.communicate(), 20)
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    assert process.returncode == 2
    (last,) = [line for line in said.decode().splitlines() if line.startswith("sfu: ")]
    assert "recorder.path" in last
    assert "Not a directory" in last
