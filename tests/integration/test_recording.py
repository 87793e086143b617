"""Recordings of real calls: who is told, what is in the files, who may read them, and what is left out."""

import asyncio

import aiohttp
import pytest

from sfu import clock
from sfu.recorder import evidence
from sfu.settings import Http, Media, Recorder, Settings
from tests.support.recording import (
    SECOND,
    Recorded,
    holes,
    ms_of,
    on_stage,
    pictures,
    recording_server,
    sealed_recordings,
    see_each_other,
    together,
    until,
)

# A packet of Opus holds 20 ms.
TONES_PER_S = 50

ALL_STATES = ["requested", "starting", "active", "finishing", "sealed"]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "kept"


def recorded(folder, recording_id):
    return Recorded(folder / "recordings" / recording_id)


async def test_a_call_of_two_is_recorded_from_its_answer_to_its_end(folder):
    """Both are told before the first packet is kept; no picture is missing; the files say whose they are."""
    async with recording_server(folder) as server, on_stage(server) as stage:
        ada, bob = await stage.people("ada", "bob")
        call = await stage.talk(ada, bob)
        recording_id = await ada.recording("active")
        heard_s = {person.name: person.voice.sent_s for person in (ada, bob)}
        mute = {"track_id": ada.track_ids["audio"], "muted": True}
        await ada.client.request("media.mute", mute)
        first = {"ada": bob.seen[-1], "bob": ada.seen[-1]}
        await see_each_other(ada, bob, pictures=3 * SECOND)
        last = {"ada": bob.seen[-1], "bob": ada.seen[-1]}
        heard_s = {person.name: person.voice.sent_s - heard_s[person.name] for person in (ada, bob)}
        await ada.client.request("call.end", {"call_id": call["id"]})
        for person in (ada, bob):
            assert await person.recording("sealed") == recording_id
            assert person.states() == ALL_STATES
            assert person.missed == 0
        _, timeline = await stage.rest("ada")("GET", f"/calls/{call['id']}/events")
        await readers_and_strangers(stage, folder, call["id"], recording_id)
    found = recorded(folder, recording_id)
    assert found.problems == []
    assert (found.manifest["end_reason"], found.manifest["call_id"]) == ("call_ended", call["id"])
    # Whoever is in the call was told at this moment.
    told = next(
        event["at"]
        for event in timeline["events"]
        if (event["type"], event["data"].get("state")) == ("call.recording", "starting")
    )
    starts = [ms_of(event["at"]) for event in found.events if event["type"] == "segment_started"]
    assert len(starts) == 4
    assert ms_of(told) <= min(starts)
    for user in ("ada", "bob"):
        numbers = found.pictures(user)
        # All that was seen from the first keyframe on, which is asked for when it begins.
        assert numbers[0] <= first[user] + SECOND and numbers[-1] >= last[user]
        assert holes(numbers) == []
        (voice,) = found.files("audio", user)
        assert (voice["codec"], voice["user_name"]) == ("opus", user.title())
        assert voice["frames"] > 0.9 * heard_s[user] * TONES_PER_S
    assert {"track_id": mute["track_id"], "muted": True}.items() <= found.of("track_muted")[0].items()
    reports = found.of("sender_report")
    assert {report["track_id"] for report in reports} == {*ada.track_ids.values(), *bob.track_ids.values()}
    assert found.manifest["losses"] == dict.fromkeys(found.manifest["losses"], 0)


async def readers_and_strangers(stage, folder, call_id, recording_id):
    """Who was in the call and has the grant reads its recording, and so do administrators; nobody else."""
    ada, boss = stage.rest("ada", record=True), stage.rest("boss", admin=True)
    eve, bob = stage.rest("eve", record=True), stage.rest("bob")
    for reader in (ada, boss):
        status, page = await reader("GET", "/recordings", call_id=call_id)
        assert (status, page["next_cursor"]) == (200, None)
        assert [(r["id"], r["state"]) for r in page["recordings"]] == [(recording_id, "sealed")]
    assert (await boss("GET", "/recordings"))[1]["recordings"] == page["recordings"]
    assert (await ada("GET", "/recordings"))[1]["recordings"] == page["recordings"]
    assert (await ada("GET", "/recordings", user_id="bob"))[0] == 403
    assert (await eve("GET", "/recordings"))[1]["recordings"] == []
    of = f"/recordings/{recording_id}"
    status, document = await ada("GET", of)
    assert (status, document["user_ids"], len(document["files"])) == (200, ["ada", "bob"], 4)
    picture = next(file for file in document["files"] if file["kind"] == "video")
    whole = (folder / "recordings" / recording_id / picture["name"]).read_bytes()
    file = f"{of}/files/{picture['name']}"
    for reader in (ada, boss):
        assert await reader.read(file) == (200, whole, "video/x-matroska")
        assert await reader.read(file, Range="bytes=1000-1999") == (206, whole[1000:2000], "video/x-matroska")
        assert (await reader.read(file, Range=f"bytes={len(whole)}-"))[0] == 416
        status, verdict = await reader("POST", f"{of}/verify")
        assert (status, verdict["is_right"], verdict["problems"]) == (200, True, [])
        assert (verdict["id"], verdict["end_reason"]) == (recording_id, "call_ended")
    copy = folder / "copy.mkv"
    copy.write_bytes(b"".join([(await ada.read(file, Range=f"bytes={a}-{b}"))[1] for a, b in halves(whole)]))
    assert holes(pictures(copy)) == []
    for reader, expected in ((bob, 403), (eve, 404)):
        assert (await reader("GET", "/recordings", call_id=call_id))[0] == expected
        assert (await reader("GET", of))[0] == expected
        assert (await reader.read(file))[0] == expected
        assert (await reader("POST", f"{of}/verify"))[0] == expected
        assert (await reader("POST", f"/calls/{call_id}/recording", {"action": "start"}))[0] == expected
    assert (await ada.read(file, Authorization="Bearer x"))[0] == 401
    for trick in (
        "..",
        "../../last.json",
        "%2e%2e",
        "%2e%2e%2f%2e%2e%2flast.json",
        "..%2f..%2f..%2fsigning.pem",
        "..%5c..%5clast.json",
        "%2fetc%2fpasswd",
        "//etc/passwd",
        f"%2e%2e%2f{recording_id}%2fmanifest.json",
        ".manifest.json.new",
        "manifest.json%00.mkv",
        "",
    ):
        status, body, _ = await ada.read(f"{of}/files/{trick}")
        assert status == 404, trick
        assert b"recording_id" not in body
    for trick in ("..", "%2e%2e", "..%2frecordings", f"..%2frecordings%2f{recording_id}", "%2e"):
        assert (await ada.read(f"/recordings/{trick}/files/manifest.json"))[0] == 404, trick
    assert (await ada.read(f"{of}/files/manifest.json"))[0] == 200


def halves(data):
    middle = len(data) // 2
    return (0, middle - 1), (middle, len(data) - 1)


async def test_what_is_asked_for_is_recorded_and_nothing_else(folder):
    """Begun, paused, gone on, paused until the time is over, stopped, begun again."""
    async with recording_server(folder, SFU_RECORDER__MODE="on_request") as server, on_stage(server) as stage:
        await together(asked_in_the_call(stage, folder), asked_while_it_rings(stage, folder))


async def asked_in_the_call(stage, folder):
    ada, bob = await stage.people("ada", "bob")
    rest = stage.rest("ada", record=True)
    call = await stage.talk(ada, bob)
    of = f"/calls/{call['id']}/recording"

    async def act(action, state, **more):
        assert (await rest("POST", of, {"action": action, **more}))[0] == 200
        return await ada.recording(state)

    await bob.sees(SECOND // 2)
    assert ada.told == []
    assert (await rest("GET", "/recordings", call_id=call["id"]))[1]["recordings"] == []
    for action in ("pause", "resume", "stop"):
        status, refused = await rest("POST", of, {"action": action})
        assert (status, refused["code"]) == (409, "not_recording")
    before = ada.video.frames
    first = await act("start", "active", reason="they agreed")
    status, refused = await rest("POST", of, {"action": "start"})
    assert (status, refused["code"]) == (409, "already_recording")
    status, refused = await rest("GET", f"/recordings/{first}/files/events.jsonl")
    assert (status, refused["code"]) == (409, "invalid_state")
    await see_each_other(ada, bob, pictures=SECOND)
    # Paused until she goes on.
    asked = clock.now()
    await act("pause", "paused", reason="card number")
    pauses = [ada.video.frames]
    await asyncio.sleep(0.7)
    pauses.append(ada.video.frames)
    await act("resume", "active")
    paused_ms = (clock.now() - asked) * 1000
    await see_each_other(ada, bob, pictures=SECOND)
    # Paused until the time is over.
    await act("pause", "paused", reason="another card", seconds=1)
    pauses.append(ada.video.frames)
    await ada.recording("active")
    pauses.append(ada.video.frames)
    await see_each_other(ada, bob, pictures=SECOND)
    assert await act("stop", "sealed") == first
    stopped = ada.video.frames
    assert ada.states(first) == [*ALL_STATES[:3], "paused", "active", "paused", "active", *ALL_STATES[3:]]
    # What is between the two is in neither.
    await bob.sees(SECOND // 2)
    again = ada.video.frames
    await rest("POST", of, {"action": "start"})
    second = await ada.recording("active", beside={first})
    await see_each_other(ada, bob, pictures=SECOND)
    await bob.client.request("call.end", {"call_id": call["id"]})
    assert await bob.recording("sealed") == second
    assert ada.states(second) == ALL_STATES
    assert bob.missed == 0
    one, two = recorded(folder, first), recorded(folder, second)
    assert one.problems == two.problems == []
    assert (one.manifest["end_reason"], two.manifest["end_reason"]) == ("stopped", "call_ended")
    for user in ("ada", "bob"):
        numbers = one.pictures(user)
        assert len(numbers) > SECOND
        assert holes(numbers)
    numbers = one.pictures("ada")
    # A picture that was made before may be on its way when it goes on.
    kept_out = {*range(pauses[0], pauses[1] - 2), *range(pauses[2], pauses[3] - SECOND // 2)}
    assert not kept_out & set(numbers)
    assert numbers[0] >= before - 2 and numbers[-1] <= stopped
    assert any(pauses[1] - 2 <= number < pauses[1] + SECOND for number in numbers)
    assert any(number > pauses[3] for number in numbers)
    assert {pause["reason"] for pause in one.manifest["pauses"]} == {"card number", "another card"}
    by_hand, by_time = one.manifest["pauses"]
    assert 700 <= by_hand["to_ms"] - by_hand["from_ms"] < paused_ms
    assert 1000 <= by_time["to_ms"] - by_time["from_ms"] < 3500
    assert [data["by"] for data in one.of("paused")] == ["ada", "ada"]
    assert [data["by"] for data in one.of("resumed")] == ["ada", "timer"]
    assert two.pictures("ada")[0] >= again - 2
    digest, _ = evidence.sha256_of(one.folder / evidence.MANIFEST)
    assert two.manifest["previous"] == {"recording_id": first, "manifest_sha256": digest}


async def asked_while_it_rings(stage, folder):
    """It is recorded from the answer on."""
    dan, eve = await stage.people("dan", "eve")
    call = await stage.ring(dan, eve)
    status, asked = await stage.rest("dan", record=True)(
        "POST", f"/calls/{call['id']}/recording", {"action": "start", "reason": "they want it"}
    )
    assert (status, asked["recording"]["state"], asked["status"]) == (200, "requested", "ringing")
    assert await eve.recording("requested") == asked["recording"]["id"]
    more = dan.video.frames + SECOND // 2
    await until(lambda: dan.video.frames > more)
    at_answer = dan.video.frames
    answered = (await eve.client.request("call.answer", {"call_id": call["id"]}))["call"]
    recording_id = await eve.recording("active")
    await eve.sees(SECOND)
    await eve.client.request("call.end", {"call_id": call["id"]})
    assert await dan.recording("sealed") == recording_id
    assert dan.states() == eve.states() == ALL_STATES
    found = recorded(folder, recording_id)
    assert found.problems == []
    assert ms_of(found.manifest["started_at"]) >= ms_of(answered["answered_at"])
    assert at_answer - 2 <= found.pictures("dan")[0] < at_answer + SECOND
    assert found.of("recording_started")[0]["reason"] == "they want it"


async def test_who_comes_late_goes_early_or_is_hidden(folder):
    """Each is in the files for as long as he is in the call; who is hidden is in nothing."""
    async with recording_server(folder) as server, on_stage(server) as stage:
        ada, bob, eve = await stage.people("ada", "bob", "eve")
        spy = await stage.person("spy", hidden=True)
        call = await stage.talk(ada, bob)
        of = {"call_id": call["id"]}
        recording_id = await ada.recording("active")
        await ada.client.request("call.invite", {**of, "user_ids": ["spy", "eve"]})
        for guest in (spy, eve):
            # Who comes later sees it in the call.
            told = (await guest.client.wait_for("call.incoming"))["data"]["call"]["recording"]
            assert (told["id"], told["state"]) == (recording_id, "active")
            await guest.join(of, slots=2)
            invited = eve.video.frames
            await guest.client.request("call.answer", of)
            await guest.sees(SECOND // 2)
        await ada.client.wait_for(
            "media.participant_joined", lambda data: data["participant"]["user_id"] == "eve"
        )
        await eve.sees(SECOND)
        await bob.client.request("call.leave", of)
        left = bob.video.frames
        await eve.sees(SECOND)
        await ada.client.request("call.end", of)
        for person in (ada, bob, eve, spy):
            assert await person.recording("sealed") == recording_id
    found = recorded(folder, recording_id)
    assert found.problems == []
    users = {event["data"]["user_id"] for event in found.events if event["type"] == "segment_started"}
    assert users == {"ada", "bob", "eve"}
    assert not any("spy" in str(event["data"]) for event in found.events[1:])
    assert holes(found.pictures("ada")) == holes(found.pictures("eve")) == []
    assert found.pictures("eve")[0] >= invited - 2
    assert found.pictures("bob")[-1] <= left
    joined = [data["participant"]["user_id"] for data in found.of("participant_joined")]
    assert joined == ["ada", "bob", "eve"], "those who are there when it begins are in it as well"
    gone = {bob.media.participant_id}
    assert {data["participant_id"] for data in found.of("participant_left")} >= gone
    (video,) = found.files("video", "eve")
    assert video["start_ms"] > found.files("video", "ada")[0]["start_ms"] + 500
    assert list(sealed_recordings(folder)) == [recording_id]


@pytest.mark.parametrize("recorder", [{"mode": "off"}, {"path": ""}])
async def test_nothing_is_recorded_where_it_is_not_wanted(run, people_of, tmp_path, recorder):
    """Who asks is told so. Without a path no process is there; with one a conversation may want otherwise."""
    settings = Settings(
        http=Http(port=0),
        media=Media(udp_port=0, tcp_port=0),
        recorder=Recorder(**{"path": str(tmp_path / "kept"), "mode": "always"} | recorder),
    )
    async with run(settings) as server, aiohttp.ClientSession() as http:
        people = people_of(server)
        ada, bob = await people.client("ada"), await people.client("bob")
        call = (await ada.request("call.initiate", {"callee_ids": ["bob"], "call_type": "voice"}))["call"]
        await bob.wait_for("call.incoming")
        headers = {"Authorization": f"Bearer {people.token('ada', grants={'record': True})}"}
        url = f"http://127.0.0.1:{server.http_port}/api/v1/calls/{call['id']}/recording"
        await bob.request("call.answer", {"call_id": call["id"]})
        for action in ("start", "pause", "stop"):
            async with http.post(url, json={"action": action}, headers=headers) as response:
                assert (response.status, (await response.json())["code"]) == (403, "recording_off")
        assert (server.recordings.client.pids == []) == ("path" in recorder)
        await ada.request("call.end", {"call_id": call["id"]})
        ended = await bob.wait_for("call.ended")
        assert ended["data"]["call"]["recording"] is None
        await people.close()
    assert list((tmp_path / "kept").glob("recordings/*")) == []
