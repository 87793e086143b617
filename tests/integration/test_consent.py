"""Who must accept to be recorded, and what is kept of whom; which calls are recorded at all."""

import pytest

from tests.support.recording import (
    SECOND,
    Recorded,
    kill,
    on_stage,
    recorder_pid,
    recording_server,
    together,
    until,
)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "kept"


def recorded(folder, recording_id):
    return Recorded(folder / "recordings" / recording_id)


def answers_told(person):
    return person.told[-1]["recording"].get("answers", {}) if person.told else {}


async def test_nothing_is_kept_of_who_has_not_accepted(folder):
    """The others are kept from the moment in which each of them accepts."""
    settings = {"SFU_RECORDER__CONSENT": "require_ack"}
    async with recording_server(folder, **settings) as server, on_stage(server) as stage:
        ann, ben, cleo = await stage.people("ann", "ben", "cleo")
        call = await stage.talk(ann, ben, cleo)
        recording_id = await ann.recording("active")
        assert {told["consent"] for told in ann.told} == {"require_ack"}
        ref = {"call_id": call["id"]}
        await ann.sees(SECOND)
        await ann.client.request("call.consent", {**ref, "accept": True})
        await cleo.client.request("call.consent", {**ref, "accept": False})
        assert (await stage.rest("eve")("POST", f"/calls/{call['id']}/recording", {"action": "accept"}))[
            0
        ] == 404
        await until(
            lambda: all(answers_told(p) == {"ann": "accepted", "cleo": "declined"} for p in (ann, ben))
        )
        await ben.sees(2 * SECOND)
        status, _ = await stage.rest("ben")("POST", f"/calls/{call['id']}/recording", {"action": "accept"})
        assert status == 200, "without a grant: it is about himself"
        await ann.sees(2 * SECOND)
        await ann.client.request("call.consent", {**ref, "accept": False})  # she may change her mind
        made = ann.video.frames
        await ben.sees(SECOND)
        await ann.client.request("call.end", ref)
        await ann.recording("sealed")

    found = recorded(folder, recording_id)
    assert found.problems == []
    assert {file["user_id"] for file in found.manifest["files"]} == {"ann", "ben"}
    said = [(event["user_id"], event["answer"]) for event in found.of("consent")]
    assert said == [("ann", "accepted"), ("cleo", "declined"), ("ben", "accepted"), ("ann", "declined")]
    assert {event["user_id"] for event in found.of("consent_asked")} >= {"ann", "ben", "cleo"}
    moments = {
        (event["data"]["user_id"], event["data"]["answer"]): event["t_ms"]
        for event in found.events
        if event["type"] == "consent"
    }
    for user in ("ann", "ben"):
        (video,) = found.files("video", user)
        assert video["start_ms"] >= moments[user, "accepted"]
    # By number, not by time: on a busy machine a picture is late, and the next ones are not.
    assert len(found.pictures("ann")) > 2 * SECOND
    assert found.pictures("ann")[-1] < made


async def test_who_must_be_recorded_and_does_not_accept_leaves(folder):
    """One declines, another says nothing; the call goes on for who has accepted."""
    settings = {
        "SFU_RECORDER__CONSENT": "require_ack",
        "SFU_RECORDER__REQUIRED": "during",
        "SFU_RECORDER__CONSENT_TIMEOUT_S": "2",
    }
    async with recording_server(folder, **settings) as server, on_stage(server) as stage:

        async def of(declines):
            names = [f"{name}-{declines}" for name in ("ann", "ben", "cleo")]
            ann, ben, cleo = await stage.people(*names)
            call = await stage.talk(ann, ben, cleo)
            await ann.recording("active")
            ref = {"call_id": call["id"]}
            for person in (ann, ben):
                await person.client.request("call.consent", {**ref, "accept": True})
            if declines:
                await cleo.client.request("call.consent", {**ref, "accept": False})
            left = await ann.client.wait_for(
                "call.participant_left", lambda data: data["call"]["id"] == call["id"], timeout=8
            )
            assert left["data"]["user_id"] == names[2]
            await ben.sees(5)
            state = (await ann.client.request("call.state", ref))["call"]
            assert (state["status"], state["recording"]["state"]) == ("active", "active")
            await ann.client.request("call.end", ref)

        await together(of(declines=True), of(declines=False))


async def test_a_conversation_says_how_its_calls_are_recorded(folder):
    """Others are as the server is set: recorded when somebody asks."""
    settings = {"SFU_RECORDER__MODE": "on_request"}
    async with recording_server(folder, **settings) as server, on_stage(server) as stage:
        boss = stage.rest("boss", admin=True)
        document = {"participants": ["ann", "ben"], "recording": {"mode": "always", "keep_days": 7}}
        status, kept = await boss("PUT", "/conversations/bank", document)
        assert (status, kept["recording"]) == (201, {"mode": "always", "keep_days": 7})
        for wrong in ({"mode": "off", "required": "during"}, {"keep_days": 3, "keep_at_least_days": 4}):
            status, problem = await boss("PUT", "/conversations/bad", {**document, "recording": wrong})
            assert (status, problem["code"]) == (400, "bad_recording_policy")
        ann, ben = await stage.people("ann", "ben")

        async def call(**where):
            request = {"call_type": "voice", **where}
            placed = (await ann.client.request("call.initiate", request))["call"]
            await ben.client.wait_for("call.incoming", lambda data: data["call"]["id"] == placed["id"])
            await ben.client.request("call.answer", {"call_id": placed["id"]})
            return placed["id"]

        other = await call(callee_ids=["ben"])
        await ann.client.request("call.end", {"call_id": other})
        bank = await call(conversation_id="bank")
        recording_id = await ann.recording("active")
        assert ann.told[-1]["call"]["id"] == bank
        await ann.client.request("call.end", {"call_id": bank})
        await ann.recording("sealed")
        _, document = await boss("GET", f"/recordings/{recording_id}")
        assert document["keep_until"] > document["created_at"]
        _, page = await boss("GET", "/recordings")
        assert [found["call_id"] for found in page["recordings"]] == [bank]


async def test_where_a_recorder_is_required_it_is_asked_for_by_the_conversation(folder):
    """Its calls do not ring while there is none; others do."""
    settings = {"SFU_RECORDER__MODE": "on_request"}
    async with recording_server(folder, restart_s=60, **settings) as server, on_stage(server) as stage:
        boss = stage.rest("boss", admin=True)
        for name, required in (("ring", "before_ring"), ("answer", "before_answer")):
            policy = {"mode": "always", "required": required}
            document = {"participants": ["ann", "ben"], "recording": policy}
            assert (await boss("PUT", f"/conversations/{name}", document))[0] == 201
        pid = recorder_pid(server)
        assert pid is not None
        kill(pid)
        await until(lambda: any(entry.get("event") == "recorder_gone" for entry in server.log))
        ann, ben = stage.rest("ann"), stage.rest("ben")

        async def place(**where):
            return await ann("POST", "/calls/initiate", {"call_type": "voice", **where})

        status, problem = await place(conversation_id="ring")
        assert (status, problem["code"]) == (503, "recorder_away")
        status, call = await place(conversation_id="answer")
        assert status == 201
        status, problem = await ben("POST", f"/calls/{call['id']}/answer")
        assert (status, problem["code"]) == (503, "recorder_away")
        await ann("POST", f"/calls/{call['id']}/cancel")
        status, call = await place(callee_ids=["ben"])
        assert (await ben("POST", f"/calls/{call['id']}/answer"))[0] == 200


async def test_who_may_control_and_read_a_recording(folder):
    """Who refused the call has no part in it, and one that must be recorded is not stopped."""
    settings = {"SFU_RECORDER__REQUIRED": "during"}
    async with recording_server(folder, **settings) as server, on_stage(server) as stage:
        ann, ben, cleo = await stage.people("ann", "ben", "cleo")
        call = await stage.ring(ann, ben, cleo)
        await ben.client.request("call.answer", {"call_id": call["id"]})
        await cleo.client.request("call.reject", {"call_id": call["id"]})
        recording_id = await ann.recording("active")
        refused, taking_part = stage.rest("cleo", record=True), stage.rest("ann", record=True)
        control = f"/calls/{call['id']}/recording"
        for action in ("pause", "stop"):
            status, problem = await refused("POST", control, {"action": action})
            assert (status, problem["code"]) == (403, "not_in_call")
        status, problem = await taking_part("POST", control, {"action": "stop"})
        assert (status, problem["code"]) == (409, "recording_required")
        await ann.client.request("call.end", {"call_id": call["id"]})
        await ann.recording("sealed")
        for path in (f"/recordings/{recording_id}", f"/recordings/{recording_id}/files/manifest.json"):
            assert (await refused("GET", path))[0] == 404
            assert (await taking_part("GET", path))[0] == 200
        assert (await refused("GET", "/recordings"))[1]["recordings"] == []
        assert len((await taking_part("GET", "/recordings"))[1]["recordings"]) == 1


async def test_a_server_without_a_recorder_rings_nothing_that_needs_one(tmp_path):
    url = f"sqlite+aiosqlite:///{tmp_path}/calls.db"
    policy = {"mode": "always", "required": "during"}
    document = {"participants": ["ann", "ben"], "recording": policy}
    async with recording_server(tmp_path / "kept", SFU_STORE__URL=url) as server, on_stage(server) as stage:
        assert (await stage.rest("boss", admin=True)("PUT", "/conversations/bank", document))[0] == 201
    without = {"SFU_STORE__URL": url, "SFU_RECORDER__PATH": ""}
    async with recording_server(tmp_path / "kept", **without) as server, on_stage(server) as stage:
        ann = stage.rest("ann")
        status, problem = await ann("POST", "/calls/initiate", {"conversation_id": "bank"})
        assert (status, problem["code"]) == (503, "recorder_away")
        assert (await ann("POST", "/calls/initiate", {"callee_ids": ["ben"]}))[0] == 201
        boss = stage.rest("boss", admin=True)
        status, problem = await boss("PUT", "/conversations/other", document)
        assert (status, problem["code"]) == (400, "bad_recording_policy")
        for odd in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"):
            assert (await boss("GET", "/recordings", since=odd))[0] == 400
