"""The life of a call as its people see it: PROTOCOL, "call.*", over real sockets."""

import asyncio
from datetime import datetime

import pytest

from sfu.auth import TokenAuthority
from sfu.bot.client import Refused
from sfu.bot.media import MediaConnection
from sfu.settings import Calls, Http, Media, Settings

# A call as the protocol lists it, key by key.
CALL_KEYS = {
    "id",
    "room_name",
    "call_type",
    "status",
    "initiator",
    "initiator_name",
    "conversation_id",
    "participants",
    "created_at",
    "answered_at",
    "ended_at",
    "end_reason",
    "recording",
    "join",
}
PARTICIPANT_KEYS = {"user_id", "name", "state", "devices", "joined_at", "left_at"}

# What the server adds to the page: what the caller gave along, and since when somebody rings.
MORE_KEYS = {"metadata"}
MORE_PARTICIPANT_KEYS = {"invited_at"}

FREE_PORTS = {"http": Http(port=0), "media": Media(udp_port=0, tcp_port=0)}

# Shorter than an operator may set: the copy is not validated.
QUICK = Settings(**FREE_PORTS, calls=Calls().model_copy(update={"ring_timeout_s": 0.2}))
SMALL = Settings(**FREE_PORTS, calls=Calls(max_participants=3))


def states(call):
    return {p["user_id"]: p["state"] for p in call["participants"]}


def codes(wire):
    return [frame["data"]["code"] for frame in wire.of("error")]


async def place(caller, *callees, call_type="voice", **more):
    """Place a call and return it as the caller reads it."""
    reply = await caller.request(
        "call.initiate", {"callee_ids": list(callees), "call_type": call_type, **more}
    )
    assert reply["type"] == "reply", reply
    return reply["data"]["call"]


async def do(wire, act, call, **more):
    """Ask for an act on a call; return the call after it, or the code of the error."""
    frame = await wire.request(f"call.{act}", {"call_id": call["id"], **more})
    return frame["data"]["call"] if frame["type"] == "reply" else frame["data"]["code"]


async def talking(people, *users):
    """Sockets of users of whom the first has called the others, and all have answered."""
    wires = [await people.wire(user) for user in users]
    call = await place(wires[0], *users[1:])
    for wire in wires[1:]:
        await wire.event("call.incoming")
        call = await do(wire, "answer", call)
        assert call["status"] == "active"
    await settled(*wires)
    return call, wires


async def settled(*wires):
    for wire in wires:
        await wire.settled()


def new_types(wire, mark):
    """Types of the durable events since a mark (a count of those before)."""
    return [type_ for _, type_ in wire.numbered()[mark:]]


# Placing and ringing


async def test_a_call_is_placed_and_rings(people):
    alice, bob = await people.wire("alice"), await people.wire("bob")
    call = await place(alice, "bob", call_type="video")
    assert (call["status"], call["call_type"], call["initiator"], call["initiator_name"]) == (
        "ringing",
        "video",
        "alice",
        "Alice",
    )
    assert states(call) == {"alice": "answered", "bob": "invited"}
    incoming = await bob.event("call.incoming")
    assert incoming["data"]["call"]["id"] == call["id"]
    ringing = await alice.event("call.ringing")
    assert ringing["data"]["user_id"] == "bob"
    assert states(ringing["data"]["call"])["bob"] == "ringing"
    (participant,) = [p for p in ringing["data"]["call"]["participants"] if p["user_id"] == "bob"]
    assert participant["devices"] == [bob.connected["session_id"]]
    assert participant["name"] == "Bob"


async def test_who_comes_later_finds_the_call_in_his_snapshot_and_rings(people):
    alice = await people.wire("alice")
    call = await place(alice, "bob")
    bob = await people.wire("bob")
    snapshot = await bob.event("call.snapshot")
    assert [c["id"] for c in snapshot["data"]["calls"]] == [call["id"]]
    await alice.event("call.ringing")
    assert (await do(bob, "answer", call))["status"] == "active"


async def test_who_has_no_calls_gets_an_empty_snapshot(people):
    alice = await people.wire("alice")
    assert (await alice.event("call.snapshot"))["data"] == {"calls": []}


async def test_the_same_key_places_one_call(people):
    alice, bob = await people.wire("alice"), await people.wire("bob")
    first = await place(alice, "bob", idempotency_key="k")
    second = await place(alice, "bob", idempotency_key="k")
    await bob.settled()
    assert first["id"] == second["id"]
    assert len(bob.of("call.incoming")) == 1


async def test_what_the_caller_gives_along_reaches_the_callee(people):
    alice, bob = await people.wire("alice"), await people.wire("bob")
    await place(alice, "bob", metadata={"ticket": [1, {"x": None}]})
    assert (await bob.event("call.incoming"))["data"]["call"]["metadata"] == {"ticket": [1, {"x": None}]}


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ({}, "no_callees"),
        ({"callee_ids": []}, "no_callees"),
        ({"callee_ids": ["alice"]}, "no_callees"),
        ({"callee_ids": ["bob"], "call_type": "smoke"}, "bad_request"),
        ({"callee_ids": ["bob"], "ring_timeout_s": 0}, "bad_request"),
        ({"callee_ids": "bob"}, "bad_request"),
        ({"conversation_id": "unknown"}, "conversation_not_found"),
    ],
)
async def test_a_call_that_cannot_be_placed(people, data, code):
    alice = await people.wire("alice")
    frame = await alice.request("call.initiate", data)
    assert (frame["type"], frame["data"]["code"], frame["data"]["retryable"]) == ("error", code, False)


@pytest.mark.parametrize("settings", [SMALL])
async def test_a_call_has_as_many_people_as_the_server_allows(people):
    alice = await people.wire("alice")
    frame = await alice.request("call.initiate", {"callee_ids": ["b", "c", "d"]})
    assert frame["data"]["code"] == "too_large"
    call = await place(alice, "b", "c")
    assert await do(alice, "invite", call, user_ids=["d"]) == "too_large"


async def test_a_token_without_the_right_to_call_places_and_takes_none(people):
    alice = await people.wire("alice")
    monitor = await people.wire("monitor", token=people.token("monitor", grants={"calls": False}))
    assert (await monitor.request("call.initiate", {"callee_ids": ["alice"]}))["data"][
        "code"
    ] == "not_allowed"
    call = await place(alice, "monitor")
    assert await do(monitor, "answer", call) == "not_allowed"
    assert (await monitor.request("presence.watch", {"user_ids": ["alice"]}))["data"]["code"] == "not_allowed"


# Answering


async def test_an_answer_makes_the_call_active_for_both(people):
    alice, bob = await people.wire("alice"), await people.wire("bob")
    call = await place(alice, "bob")
    after = await do(bob, "answer", call)
    assert (after["status"], states(after)["bob"]) == ("active", "answered")
    for wire in (alice, bob):
        answered = await wire.event("call.answered")
        assert answered["data"]["by"] == "bob"
        assert answered["data"]["call"]["status"] == "active"
        assert answered["data"]["call"]["answered_at"] is not None


async def test_answering_again_on_the_same_device_is_no_fault_and_tells_nobody(people):
    call, (alice, bob) = await talking(people, "alice", "bob")
    mark = len(alice.numbered())
    assert (await do(bob, "answer", call))["status"] == "active"
    await alice.settled()
    assert new_types(alice, mark) == []


async def test_of_two_devices_the_first_answer_wins(people):
    alice, phone, desk = [await people.wire(user) for user in ("alice", "bob", "bob")]
    call = await place(alice, "bob")
    await phone.event("call.incoming")
    await desk.event("call.incoming")
    assert (await do(phone, "answer", call))["status"] == "active"
    elsewhere = await desk.event("call.answered_elsewhere")
    assert elsewhere["data"]["call"]["id"] == call["id"]
    assert await do(desk, "answer", call) == "invalid_state"
    await settled(phone, desk, alice)
    assert phone.of("call.answered_elsewhere") == []
    assert alice.of("call.answered_elsewhere") == []
    assert len(alice.of("call.answered")) == 1
    (bob,) = [p for p in (await do(desk, "state", call))["participants"] if p["user_id"] == "bob"]
    assert bob["devices"] == [phone.connected["session_id"]]


async def test_of_devices_that_answer_at_once_exactly_one_wins(people):
    alice = await people.wire("alice")
    devices = [await people.wire("bob") for _ in range(4)]
    call = await place(alice, "bob")
    answers = await asyncio.gather(*(do(device, "answer", call) for device in devices))
    assert answers.count("invalid_state") == 3
    await settled(*devices)
    told = [len(device.of("call.answered_elsewhere")) for device in devices]
    won = [answer != "invalid_state" for answer in answers]
    assert told == [0 if winner else 1 for winner in won]


async def test_the_caller_cannot_answer_his_own_call(people):
    alice = await people.wire("alice")
    call = await place(alice, "bob")
    assert await do(alice, "answer", call) == "invalid_state"


# The ends of a call


async def test_a_rejected_call(people):
    alice, bob = await people.wire("alice"), await people.wire("bob")
    call = await place(alice, "bob")
    after = await do(bob, "reject", call, reason="in a meeting")
    assert (after["status"], after["end_reason"], states(after)["bob"]) == ("ended", "rejected", "rejected")
    for wire in (alice, bob):
        rejected = await wire.event("call.rejected")
        assert (rejected["data"]["by"], rejected["data"]["reason"]) == ("bob", "in a meeting")
        ended = await wire.event("call.ended")
        assert (ended["data"]["end_reason"], ended["data"]["duration_s"]) == ("rejected", 0)
    assert (await do(bob, "reject", call))["status"] == "ended"
    assert await do(bob, "answer", call) == "invalid_state"


async def test_a_cancelled_call(people):
    alice, bob = await people.wire("alice"), await people.wire("bob")
    call = await place(alice, "bob")
    assert await do(bob, "cancel", call) == "not_allowed"
    after = await do(alice, "cancel", call)
    assert (after["status"], after["end_reason"], states(after)["bob"]) == ("ended", "cancelled", "missed")
    for wire in (alice, bob):
        await wire.event("call.cancelled")
        assert (await wire.event("call.ended"))["data"]["end_reason"] == "cancelled"
    assert (await do(alice, "cancel", call))["end_reason"] == "cancelled"


async def test_an_active_call_cannot_be_cancelled_or_rejected(people):
    call, (alice, bob) = await talking(people, "alice", "bob")
    assert await do(alice, "cancel", call) == "invalid_state"
    assert await do(bob, "reject", call) == "invalid_state"
    assert (await do(alice, "state", call))["status"] == "active"


@pytest.mark.parametrize("settings", [QUICK])
async def test_a_call_that_nobody_answers_is_missed(people):
    alice, bob = await people.wire("alice"), await people.wire("bob")
    call = await place(alice, "bob")
    for wire in (alice, bob):
        assert (await wire.event("call.missed"))["data"]["user_ids"] == ["bob"]
        ended = await wire.event("call.ended")
        assert (ended["data"]["end_reason"], states(ended["data"]["call"])["bob"]) == ("missed", "missed")
    assert await do(bob, "answer", call) == "invalid_state"


async def test_who_is_in_a_call_is_busy(people):
    _, (_, bob) = await talking(people, "alice", "bob")
    carol, mark = await people.wire("carol"), len(bob.numbered())
    call = await place(carol, "bob")
    assert (call["status"], call["end_reason"], states(call)["bob"]) == ("ended", "busy", "busy")
    assert (await carol.event("call.busy"))["data"]["user_ids"] == ["bob"]
    assert (await carol.event("call.ended"))["data"]["end_reason"] == "busy"
    await bob.settled()
    assert "call.incoming" not in new_types(bob, mark)


@pytest.mark.parametrize("act", ["end", "leave"])
@pytest.mark.parametrize("who", [0, 1])
async def test_either_of_two_ends_the_call(people, act, who):
    call, wires = await talking(people, "alice", "bob")
    after = await do(wires[who], act, call)
    assert (after["status"], after["end_reason"]) == ("ended", "completed")
    assert states(after) == {"alice": "left", "bob": "left"}
    for wire in wires:
        ended = await wire.event("call.ended")
        assert ended["data"]["end_reason"] == "completed"
        assert ended["data"]["duration_s"] >= 0
        assert len(wire.of("call.participant_left")) == (1 if act == "leave" else 0)
    assert (await do(wires[who], act, call))["status"] == "ended"


async def test_a_caller_whose_last_page_is_closed_cancels(people):
    alice, bob = await people.wire("alice"), await people.wire("bob")
    await place(alice, "bob")
    await alice.close()
    assert (await bob.event("call.ended"))["data"]["end_reason"] == "cancelled"


async def test_who_closes_his_last_page_leaves_the_call(people):
    _, (alice, bob) = await talking(people, "alice", "bob")
    await bob.close()
    assert (await alice.event("call.participant_left"))["data"]["user_id"] == "bob"
    assert (await alice.event("call.ended"))["data"]["end_reason"] == "completed"


async def test_who_closes_the_page_that_took_the_call_leaves_though_another_is_open(people):
    """Else he would stay in it, and busy, on a page that knows nothing of it."""
    _, (alice, bob) = await talking(people, "alice", "bob")
    await people.wire("bob")
    await bob.close()
    assert (await alice.event("call.participant_left"))["data"]["user_id"] == "bob"


async def test_who_closes_a_page_that_has_nothing_of_the_call_stays(people):
    call, (alice, bob) = await talking(people, "alice", "bob")
    other = await people.wire("bob")
    await other.close()
    await settled(bob, alice)
    assert (await do(alice, "state", call))["status"] == "active"


# Group calls


async def test_a_group_call_goes_on_without_who_refuses_or_leaves(people):
    alice, bob, carol, dave = [await people.wire(user) for user in ("alice", "bob", "carol", "dave")]
    call = await place(alice, "bob", "carol", "dave")
    assert (await do(bob, "reject", call))["status"] == "ringing"
    assert (await do(carol, "answer", call))["status"] == "active"
    assert (await do(dave, "answer", call))["status"] == "active"
    await settled(alice, bob, carol, dave)
    assert [f["data"]["by"] for f in alice.of("call.answered")] == ["carol", "dave"]
    assert [f["data"]["by"] for f in carol.of("call.rejected")] == ["bob"]
    assert bob.of("call.answered") == []
    assert (await do(alice, "leave", call))["status"] == "active"
    assert (await do(carol, "leave", call))["status"] == "active"
    assert (await do(dave, "leave", call))["end_reason"] == "completed"
    await settled(alice, bob, carol, dave)
    assert all(len(w.of("call.ended")) == 1 for w in (alice, bob, carol, dave))


async def test_end_ends_a_group_call_for_everybody(people):
    call, wires = await talking(people, "alice", "bob", "carol")
    assert (await do(wires[1], "end", call))["status"] == "ended"
    for wire in wires:
        await wire.event("call.ended")


async def test_a_third_is_invited_into_a_running_call(people):
    call, (alice, _) = await talking(people, "alice", "bob")
    carol = await people.wire("carol")
    after = await do(alice, "invite", call, user_ids=["carol", "bob"])
    assert states(after) == {"alice": "answered", "bob": "answered", "carol": "invited"}
    await carol.event("call.incoming")
    assert (await do(carol, "answer", call))["status"] == "active"
    assert await do(carol, "invite", call, user_ids=[]) == "bad_request"


async def test_who_is_invited_and_busy_is_told_to_the_inviter(people):
    await talking(people, "xavier", "yvonne")
    call, (alice, _) = await talking(people, "alice", "bob")
    after = await do(alice, "invite", call, user_ids=["yvonne"])
    assert states(after)["yvonne"] == "busy"
    assert (await alice.event("call.busy"))["data"]["user_ids"] == ["yvonne"]
    assert after["status"] == "active"


async def test_only_who_is_in_invites_or_changes(people):
    alice, bob = await people.wire("alice"), await people.wire("bob")
    call = await place(alice, "bob")
    assert await do(bob, "invite", call, user_ids=["carol"]) == "invalid_state"
    assert await do(bob, "update", call, call_type="video") == "invalid_state"
    assert await do(bob, "end", call) == "invalid_state"
    assert await do(bob, "leave", call) == "invalid_state"


async def test_voice_becomes_video(people):
    call, (alice, bob) = await talking(people, "alice", "bob")
    assert (await do(bob, "update", call, call_type="video"))["call_type"] == "video"
    await alice.settled()
    assert alice.numbered()[-1][1] == "call.updated"
    assert alice.frames[-2]["data"]["call"]["call_type"] == "video"
    assert await do(bob, "update", call, call_type="smoke") == "bad_request"


async def test_connected_media_is_told_as_joined(people):
    """The media plane says when; here its word is given by hand."""
    call, (alice, bob) = await talking(people, "alice", "bob")
    await people.server.calls.join(call["id"], "bob")
    for wire in (alice, bob):
        joined = await wire.event("call.participant_joined")
        assert joined["data"]["user_id"] == "bob"
        assert states(joined["data"]["call"])["bob"] == "joined"


async def test_media_offered_before_the_answer_joins_with_it_and_is_let_go_at_the_end(people):
    alice, phone, desk = [await people.client(user) for user in ("alice", "bob", "bob")]
    call_id = (await alice.request("call.initiate", {"callee_ids": ["bob"]}))["call"]["id"]
    media = [MediaConnection(client, lambda mid, frame: None) for client in (alice, phone, desk)]
    try:
        for connection in media[:2]:
            await connection.join({"call_id": call_id}, [], video_slots=0)
            await connection.connected()
        await phone.request("call.answer", {"call_id": call_id})
        for user in ("alice", "bob"):
            await alice.wait_for("call.participant_joined", lambda data, user=user: data["user_id"] == user)
        assert states((await alice.request("call.state", {"call_id": call_id}))["call"]) == {
            "alice": "joined",
            "bob": "joined",
        }
        await alice.request("call.end", {"call_id": call_id})
        for client in (alice, phone):
            assert (await client.wait_for("media.removed"))["data"] == {"reason": "call_ended"}
        assert people.server.plane.peers == 0
    finally:
        for connection in media:
            await connection.close()


async def test_the_device_that_did_not_answer_loses_the_media_that_it_had_ready(people):
    alice, phone, desk = [await people.client(user) for user in ("alice", "bob", "bob")]
    call_id = (await alice.request("call.initiate", {"callee_ids": ["bob"]}))["call"]["id"]
    ready = MediaConnection(desk, lambda mid, frame: None)
    try:
        await ready.join({"call_id": call_id}, [], video_slots=0)
        await ready.connected()
        await phone.request("call.answer", {"call_id": call_id})
        assert (await desk.wait_for("media.removed"))["data"] == {"reason": "answered_elsewhere"}
        assert people.server.plane.peers == 0
    finally:
        await ready.close()


# Who may do what


@pytest.mark.parametrize("act", ["answer", "reject", "cancel", "end", "leave", "state", "invite", "update"])
async def test_a_call_of_others_does_not_exist(people, act):
    call, (alice, _) = await talking(people, "alice", "bob")
    call = await do(alice, "state", call)
    mallory = await people.wire("mallory")
    more = {"invite": {"user_ids": ["mallory"]}, "update": {"call_type": "video"}}.get(act, {})
    assert await do(mallory, act, call, **more) == "call_not_found"
    assert await do(mallory, act, {"id": "call_nonsense"}, **more) == "call_not_found"
    after = await do(alice, "state", call)
    assert {**after, "join": None} == {**call, "join": None}


@pytest.mark.parametrize("act", ["answer", "reject", "cancel", "end", "leave", "state", "invite", "update"])
async def test_a_request_without_its_fields_is_a_bad_request(people, act):
    alice = await people.wire("alice")
    assert (await alice.request(f"call.{act}"))["data"]["code"] == "bad_request"


# The call that everybody reads


def check_call(call, reader, authority: TokenAuthority, url):
    """A call is whole, and `join` is there for exactly those who may."""
    assert call.keys() >= CALL_KEYS
    assert call.keys() <= CALL_KEYS | MORE_KEYS
    for participant in call["participants"]:
        assert participant.keys() >= PARTICIPANT_KEYS
        assert participant.keys() <= PARTICIPANT_KEYS | MORE_PARTICIPANT_KEYS
    for key in ("created_at", "answered_at", "ended_at"):
        assert call[key] is None or datetime.fromisoformat(call[key]).tzinfo is not None
    may = call["status"] != "ended" and states(call)[reader] in {"invited", "ringing", "answered", "joined"}
    if not may:
        assert call["join"] is None
        return
    assert call["join"].keys() == {"url", "token", "room_name"}
    assert call["join"]["room_name"] == call["room_name"]
    assert call["join"]["url"] == url
    identity = authority.verify(call["join"]["token"])
    assert (identity.user_id, identity.grants.room) == (reader, call["room_name"])
    assert not identity.grants.admin


async def test_every_reply_and_event_has_the_whole_call_and_a_join_for_its_reader(people):
    alice, bob, carol = [await people.wire(user) for user in ("alice", "bob", "carol")]
    desk = await people.wire("bob")
    call = await place(alice, "bob", "carol")
    await settled(alice, bob, carol, desk)
    await do(bob, "answer", call)
    await people.server.calls.join(call["id"], "bob")
    await do(carol, "reject", call)
    await do(alice, "update", call, call_type="video")
    await do(alice, "invite", call, user_ids=["carol"])
    await do(carol, "answer", call)
    await do(carol, "leave", call)
    await do(bob, "leave", call)
    await do(alice, "end", call)
    second = await place(alice, "bob")
    late = await people.wire("bob")
    await do(alice, "cancel", second)
    await settled(alice, bob, carol, desk, late)
    seen = set()
    for user, wire in (("alice", alice), ("bob", bob), ("carol", carol), ("bob", desk), ("bob", late)):
        for frame in wire.frames:
            calls = frame["data"].get("calls", [frame["data"].get("call")])
            for read in filter(None, calls):
                seen.add(frame["type"])
                check_call(read, user, people.server.authority, people.url)
            if frame["type"].startswith("call.") and frame["type"] != "call.snapshot":
                assert "call" in frame["data"], frame["type"]
                assert "seq" in frame
    assert seen == {
        "reply",
        "call.snapshot",
        "call.incoming",
        "call.ringing",
        "call.answered",
        "call.answered_elsewhere",
        "call.rejected",
        "call.cancelled",
        "call.participant_joined",
        "call.participant_left",
        "call.updated",
        "call.ended",
    }


async def test_every_request_has_exactly_one_answer(people):
    call, (alice, bob) = await talking(people, "alice", "bob")
    asked = []
    requests = [
        ("call.state", {"call_id": call["id"]}),
        ("call.answer", {"call_id": call["id"]}),
        ("call.cancel", {"call_id": call["id"]}),
        ("call.nonsense", {}),
        ("call.state", {"call_id": "none"}),
        ("presence.watch", {"user_ids": ["bob"]}),
        ("media.candidate", {"candidate": "x"}),
        ("media.leave", {}),
        ("media.mute", {"track_id": "t", "muted": True}),
        ("call.update", {"call_id": call["id"], "call_type": "video"}),
        ("call.end", {"call_id": call["id"]}),
        ("ping", {}),
    ]
    for number, (type_, data) in enumerate(requests):
        asked.append(number)
        await alice.send(type_, data, id=number)
    await settled(alice, bob)
    assert [len(alice.answers(number)) for number in asked] == [1] * len(asked)
    order = [f["re"] for f in alice.frames if isinstance(f.get("re"), int)]
    assert order == asked


async def test_the_bot_client_speaks_the_same(people):
    alice, bob = await people.client("alice"), await people.client("bob")
    call = (await alice.request("call.initiate", {"callee_ids": ["bob"]}))["call"]
    incoming = await bob.wait_for("call.incoming", lambda data: data["call"]["id"] == call["id"])
    await bob.request("call.answer", {"call_id": incoming["data"]["call"]["id"]})
    await alice.wait_for("call.answered")
    with pytest.raises(Refused) as refused:
        await bob.request("call.cancel", {"call_id": call["id"]})
    assert refused.value.code == "not_allowed"
    await alice.request("call.end", {"call_id": call["id"]})
    await bob.wait_for("call.ended")


# Presence


async def test_presence_is_told_to_who_watches(people):
    watcher = await people.wire("watcher")
    bob = await people.wire("bob")
    reply = await watcher.request("presence.watch", {"user_ids": ["bob", "carol"]})
    assert reply["data"]["online"] == ["bob"]
    carol = await people.wire("carol")
    second = await people.wire("carol")
    await people.wire("stranger")
    await carol.close()
    await bob.close()
    await second.close()
    await watcher.event("presence.changed", 3)
    await watcher.settled()
    told = [(f["data"]["user_id"], f["data"]["online"]) for f in watcher.of("presence.changed")]
    assert told == [("carol", True), ("bob", False), ("carol", False)]
    assert all("seq" not in f for f in watcher.of("presence.changed"))


async def test_watching_others_replaces_those_before(people):
    watcher = await people.wire("watcher")
    await watcher.request("presence.watch", {"user_ids": ["bob"]})
    await watcher.request("presence.watch", {"user_ids": ["carol"]})
    await people.wire("bob")
    await people.wire("carol")
    changed = await watcher.event("presence.changed")
    assert changed["data"]["user_id"] == "carol"
