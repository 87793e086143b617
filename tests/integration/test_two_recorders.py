"""Two recorders on two disks: one of them may fail, and nothing is missing."""

import pytest

from tests.support.recording import (
    SECOND,
    Recorded,
    disk,
    holes,
    kill,
    on_stage,
    pictures,
    recorder_pids,
    recording_server,
    until,
)


def settings(folder):
    return {
        "SFU_RECORDER__RECORDERS": "2",
        "SFU_RECORDER__SECOND_PATH": str(folder / "second"),
        "SFU_RECORDER__REQUIRED": "during",
        "SFU_RECORDER__SIGNING_KEY_FILE": str(folder / "signing.pem"),
    }


def problems(folder, recording):
    return recording.problems_by(folder / "signing.pub")


async def test_each_of_two_has_the_whole_call(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    async with recording_server(first, **settings(tmp_path)) as server, on_stage(server) as stage:
        ann, ben = await stage.people("ann", "ben")
        call = await stage.talk(ann, ben)
        recording_id = await ann.recording("active")
        first_seen = ben.seen[-1]
        await ben.sees(2 * SECOND)
        last_seen = ben.seen[-1]
        await ann.client.request("call.end", {"call_id": call["id"]})
        await ann.recording("sealed")
        assert ann.told[-1]["recording"].get("alarm") is None
    seen = []
    for root in (first, second):
        found = Recorded(root / "recordings" / recording_id)
        assert problems(tmp_path, found) == []
        numbers = found.pictures("ann")
        # All that was seen from the first keyframe on, which is asked for when it begins.
        assert numbers[0] <= first_seen + SECOND and numbers[-1] >= last_seen
        assert holes(numbers) == []
        seen.append((numbers, found.manifest["losses"]))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("which", [0, 1])
async def test_one_that_is_killed_does_not_end_the_call(tmp_path, which):
    """The other has everything; the end of both ends the call, for it must be recorded."""
    first, second = tmp_path / "first", tmp_path / "second"
    async with (
        recording_server(first, restart_s=60, **settings(tmp_path)) as server,
        on_stage(server) as stage,
    ):
        ann, ben = await stage.people("ann", "ben")
        call = await stage.talk(ann, ben)
        recording_id = await ann.recording("active")
        await ben.sees(SECOND)
        pids = recorder_pids(server)
        assert len(pids) == 2
        kill(pids[which])
        await until(lambda: ann.told[-1]["recording"].get("alarm") == "one_recorder")
        await ben.sees(SECOND)
        await ann.client.request("call.end", {"call_id": call["id"]})
        await ann.recording("sealed")
        assert "failed" not in ann.states(recording_id)
        rest = stage.rest("ann", record=True)
        _, verdict = await rest("POST", f"/recordings/{recording_id}/verify")
        assert (verdict["is_right"], verdict["end_reason"]) == (True, "call_ended")
        whole = Recorded((first, second)[1 - which] / "recordings" / recording_id)
        assert problems(tmp_path, whole) == []
        assert holes(whole.pictures("ann")) == []
        assert [event["place"] for event in whole.of("recorder_lost")] == [which]
        # Of another call the one that is left writes all there is, and its end is the call's.
        cleo, dan = await stage.people("cleo", "dan")
        again = await stage.talk(cleo, dan)
        await cleo.recording("active")
        kill(pids[1 - which])
        ended = await dan.client.wait_for("call.ended", lambda data: data["call"]["id"] == again["id"])
        assert ended["data"]["end_reason"] == "recording_failed"


async def test_a_full_disk_is_one_of_two(tmp_path):
    first = tmp_path / "first"
    with disk(tmp_path / "second", "tmpfs") as small:
        async with recording_server(first, **settings(tmp_path)) as server, on_stage(server) as stage:
            ann, ben = await stage.people("ann", "ben")
            call = await stage.talk(ann, ben)
            recording_id = await ann.recording("active")
            small.fill()
            await until(lambda: ann.told[-1]["recording"].get("alarm") == "one_recorder")
            await ben.sees(SECOND)
            await ann.client.request("call.end", {"call_id": call["id"]})
            await ann.recording("sealed")
        found = Recorded(first / "recordings" / recording_id)
        assert problems(tmp_path, found) == []
        assert holes(found.pictures("ann")) == []


async def test_after_a_crash_the_longer_of_two_is_the_recording(tmp_path):
    """The first one's disk was full early, and its part is sealed first."""
    second, stores = tmp_path / "second", (tmp_path / "archive").as_uri()
    kept = {
        "SFU_RECORDER__MASTER_KEY": "11" * 32,
        "SFU_RECORDER__STORES": f'["{stores}"]',
        "SFU_STORE__URL": f"sqlite+aiosqlite:///{tmp_path}/calls.db",
    }
    with disk(tmp_path / "first", "tmpfs") as small:
        async with (
            recording_server(tmp_path / "first", **settings(tmp_path), **kept) as server,
            on_stage(server) as stage,
        ):
            ann, ben = await stage.people("ann", "ben")
            await stage.talk(ann, ben)
            recording_id = await ann.recording("active")
            await ben.sees(SECOND // 2)
            small.fill()
            await until(lambda: ann.told[-1]["recording"].get("alarm") == "one_recorder")
            seen = len(ben.seen)
            await ben.sees(4 * SECOND)
            pids = recorder_pids(server)
            for pid in pids:
                kill(pid)
            await server.kill()
            small.empty()
        async with (
            recording_server(tmp_path / "first", **settings(tmp_path), **kept) as server,
            on_stage(server) as stage,
        ):
            boss = stage.rest("boss", admin=True)

            async def sealed():
                _, document = await boss("GET", f"/recordings/{recording_id}")
                return document if document["state"] == "sealed" else None

            document = await until(sealed, 40)
            assert document["duration_ms"] > 2_000
            (video,) = [f for f in document["files"] if f["kind"] == "video" and f["user_id"] == "ann"]
            _, data, _ = await boss.read(f"/recordings/{recording_id}/files/{video['name']}")
            (tmp_path / "video.mkv").write_bytes(data)
            assert len(pictures(tmp_path / "video.mkv")) > seen + 2 * SECOND
            left = [root / "recordings" / recording_id for root in (tmp_path / "first", second)]
            await until(lambda: not any(folder.exists() for folder in left))
