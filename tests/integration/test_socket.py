"""The one socket: who may open it, what it bears, and that a cut costs nothing."""

import asyncio
import json

import aiohttp
import jwt
import pytest

from sfu import clock
from sfu.auth import mint
from sfu.bot.client import Refused
from sfu.bot.media import MediaConnection
from sfu.bot.patterns import Tone
from sfu.settings import Auth, Http, Media, Settings
from sfu.signaling import gateway, session as session_module
from sfu.signaling.limits import BURST, MAX_BAD_FRAMES, MAX_REFUSALS
from sfu.signaling.messages import MAX_FRAME_BYTES, MAX_OFFER_BYTES
from sfu.store import memory

SECRET = "a secret of more than thirty-two bytes"
MEDIA = Media(udp_port=0, tcp_port=0)
CALLS = ("call.initiate", {"callee_ids": ["bob"], "call_type": "voice"})


async def place(wire, *callees):
    reply = await wire.request("call.initiate", {"callee_ids": list(callees), "call_type": "voice"})
    assert reply["type"] == "reply", reply
    return reply["data"]["call"]["id"]


async def settled(*wires):
    for wire in wires:
        await wire.settled()


# The first frame


async def test_the_first_frame_tells_what_the_protocol_lists(people):
    alice = await people.wire("alice")
    assert alice.frames[0]["type"] == "connected"
    assert alice.connected.keys() == {
        "session_id",
        "user_id",
        "resume_token",
        "resumed",
        "seq",
        "server_time",
        "protocol",
        "ping_interval_s",
        "ice_servers",
    }
    told = {key: alice.connected[key] for key in ("user_id", "resumed", "seq", "protocol", "ping_interval_s")}
    assert told == {"user_id": "alice", "resumed": False, "seq": 0, "protocol": 1, "ping_interval_s": 30}


async def test_ping_is_answered_with_pong(people):
    alice = await people.wire("alice")
    assert await alice.request("ping") == {"type": "pong", "re": "n1", "data": {}}
    await alice.send("ping")
    assert "re" not in await alice.event("pong", 2)
    await alice.send("pong")
    await alice.send("ack", {"seq": 0})
    await alice.settled()
    assert alice.of("error") == []


# Who may open it


def forged(**changes):
    claims = {"sub": "alice", "aud": "sfu", "exp": int(clock.unix_seconds()) + 60, **changes}
    return jwt.encode(claims, SECRET, algorithm="HS256")


BAD_TOKENS = {
    "none": lambda _: "",
    "expired": lambda secret: mint("alice", secret=secret, ttl_s=-60),
    "alg none": lambda _: jwt.encode(
        {"sub": "alice", "aud": "sfu", "exp": int(clock.unix_seconds()) + 60}, None, algorithm="none"
    ),
    "wrong aud": lambda secret: mint("alice", secret=secret, audience="other"),
    "wrong secret": lambda _: forged(),
    "garbage": lambda _: "garbage",
}

WAYS = {
    "header": lambda token: {"headers": {"Authorization": f"Bearer {token}"}},
    "subprotocol": lambda token: {"protocols": ["sfu.v1", f"bearer.{token}"]},
    "query": lambda token: {"params": {"token": token}},
}


async def opened(url, **options):
    """Open a socket; return its first frame and its close code, whichever there is."""
    async with aiohttp.ClientSession() as http, http.ws_connect(url, **options) as ws:
        message = await ws.receive(timeout=10)
        if message.type is aiohttp.WSMsgType.TEXT:
            return json.loads(message.data), None
        return None, ws.close_code


@pytest.mark.parametrize("way", WAYS)
async def test_a_token_that_does_not_hold_closes_the_socket_with_4401(people, way):
    secret = people.server.settings.auth.secret
    for name, make in BAD_TOKENS.items():
        frame, code = await opened(people.url, **WAYS[way](make(secret)))
        assert (frame, code) == (None, 4401), name
    frame, _ = await opened(people.url, **WAYS[way](people.token("alice")))
    assert frame["data"]["user_id"] == "alice"


async def test_without_any_token_the_socket_is_closed_with_4401(people):
    assert await opened(people.url) == (None, 4401)


async def test_the_subprotocol_is_agreed_on(people):
    async with aiohttp.ClientSession() as http:
        options = WAYS["subprotocol"](people.token("alice"))
        async with http.ws_connect(people.url, **options) as ws:
            assert ws.protocol == "sfu.v1"


async def handshake(url, **headers):
    """The status of an answer to a handshake."""
    try:
        async with aiohttp.ClientSession() as http, http.ws_connect(url, headers=headers):
            return 101
    except aiohttp.WSServerHandshakeError as error:
        return error.status


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "http://127.0.0.1.evil.example",
        "http://127.0.0.1:1",
        "null",
        "",
        "file://",
        "http://[",
        "nonsense",
    ],
)
async def test_a_page_of_another_origin_may_not_open_it(people, origin):
    bearer = f"Bearer {people.token('alice')}"
    assert await handshake(people.url, Origin=origin, Authorization=bearer) == 403


async def test_a_page_of_this_server_may_open_it(people):
    own = f"http://127.0.0.1:{people.server.http_port}"
    assert await handshake(people.url, Origin=own, Authorization=f"Bearer {people.token('alice')}") == 101


@pytest.mark.parametrize(
    "settings",
    [
        Settings(
            http=Http(port=0, allowed_origins=["https://app.example"], public_url="https://calls.example/"),
            media=MEDIA,
        )
    ],
)
async def test_origins_that_are_configured_may_open_it(people):
    bearer = f"Bearer {people.token('alice')}"
    for origin, status in (
        ("https://app.example", 101),
        ("https://calls.example", 101),
        ("https://app.example.evil", 403),
        ("http://app.example", 403),
    ):
        assert await handshake(people.url, Origin=origin, Authorization=bearer) == status, origin
    alice = await people.wire("alice")
    reply = await alice.request(*CALLS)
    assert reply["data"]["call"]["join"]["url"] == "wss://calls.example/ws"


async def test_plain_http_is_asked_to_upgrade(people):
    async with aiohttp.ClientSession() as http, http.get(people.url.replace("ws", "http", 1)) as response:
        assert response.status == 426


@pytest.mark.parametrize("settings", [Settings(http=Http(port=0, max_sockets=1), media=MEDIA)])
async def test_one_socket_too_many_is_sent_away_with_1013(people):
    alice = await people.wire("alice")
    assert await opened(people.url, **WAYS["query"](people.token("bob"))) == (None, 1013)
    await alice.settled()


# Frames


BAD_FRAMES = {
    "broken JSON": ('{"type": "ping"', "bad_frame", None),
    "no JSON at all": ("hello", "bad_frame", None),
    "nothing": ("", "bad_frame", None),
    "a number": ("7", "bad_frame", None),
    "a list": ('[{"type": "ping"}]', "bad_frame", None),
    "no type": ('{"id": "c1", "data": {}}', "bad_frame", None),
    "type a number": ('{"type": 7}', "bad_frame", None),
    "data a list": ('{"type": "ping", "data": []}', "bad_frame", None),
    "nested 10,000 deep": (
        '{"type": "ping", "data": ' + '{"a":' * 10_000 + "1" + "}" * 10_001,
        "bad_frame",
        None,
    ),
    "unknown type": ('{"type": "call.dance", "id": "c1"}', "unknown_type", "c1"),
    "unknown type without id": ('{"type": "call.dance"}', "unknown_type", None),
    "wrong fields": ('{"type": "call.answer", "id": "c1", "data": {"call_id": 7}}', "bad_request", "c1"),
    "missing fields": ('{"type": "call.answer", "id": 5}', "bad_request", 5),
}


async def test_a_bad_frame_gets_an_error_and_the_socket_lives_on(people):
    alice = await people.wire("alice")
    for count, (name, (text, code, re)) in enumerate(BAD_FRAMES.items(), 1):
        await alice.send_text(text)
        error = await alice.event("error", count)
        assert (error["data"]["code"], error["re"]) == (code, re), name
        assert error["data"].keys() == {"code", "message", "retryable"}
    await alice.settled()


async def test_a_binary_frame_gets_an_error_and_the_socket_lives_on(people):
    alice = await people.wire("alice")
    await alice.send_bytes(b'{"type": "ping"}')
    assert (await alice.event("error"))["data"]["code"] == "bad_frame"
    await alice.settled()
    assert len(alice.of("pong")) == 1


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
async def test_a_number_that_is_not_json_does_not_come_out_at_another_client(people, number):
    alice, bob = await people.wire("alice"), await people.wire("bob")
    metadata = f'{{"x": {number}}}'
    await alice.send_text(
        f'{{"type": "call.initiate", "id": "c1", "data": {{"callee_ids": ["bob"], "metadata": {metadata}}}}}'
    )
    await alice.until(lambda: alice.of("error", "reply") or None)
    await settled(bob)
    assert alice.of("reply") == []
    assert alice.of("error")[0]["data"]["code"] in ("bad_frame", "bad_request")
    assert bob.of("call.incoming") == []


@pytest.mark.parametrize("depth", [300, 480, 700, 940])
async def test_deep_nesting_is_never_a_fault_of_the_server(people, depth):
    alice, bob = await people.wire("alice"), await people.wire("bob")
    metadata = '{"x": ' + "[" * depth + "]" * depth + "}"
    await alice.send_text(
        f'{{"type": "call.initiate", "id": "c1", "data": {{"callee_ids": ["bob"], "metadata": {metadata}}}}}'
    )
    (answer,) = await alice.until(lambda: alice.of("error", "reply") or None)
    assert answer["type"] == "reply" or answer["data"]["code"] in ("bad_frame", "bad_request")
    await settled(alice, bob)


@pytest.mark.parametrize("depth", range(960, 1000, 3))
async def test_at_the_edge_of_what_can_be_read_the_socket_lives_on(people, depth):
    """Python reads a nesting that it then cannot write, for it stands deeper in the stack by then."""
    alice = await people.wire("alice")
    for shape in (
        '{"type": "ping", "id": "c1", "data": {"x": %s}}',
        '{"type": "call.initiate", "data": {"metadata": {"x": %s}}}',
    ):
        await alice.send_text(shape % ("[" * depth + "]" * depth))
    await alice.settled()


async def test_a_frame_of_64_kib_is_taken_and_one_more_byte_is_not(people):
    alice = await people.wire("alice")
    empty = json.dumps({"type": "ping", "id": "c1", "data": {"x": ""}})
    full = empty.replace('""', '"' + "x" * (MAX_FRAME_BYTES - len(empty)) + '"')
    await alice.send_text(full)
    await alice.event("pong")
    await alice.send_text(full.replace("xx", "xxx", 1))
    assert await alice.closed() == 4413


async def test_bytes_count_and_not_letters(people):
    alice = await people.wire("alice")
    text = json.dumps({"type": "ping", "data": {"x": "ä" * (MAX_FRAME_BYTES // 2)}}, ensure_ascii=False)
    assert len(text) < MAX_FRAME_BYTES
    await alice.send_text(text)
    assert await alice.closed() == 4413


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"type": "call.answer", "data": {"call_id": "x" * 100_000}}),
        json.dumps({"type": "call.dance", "data": {"x": "x" * 100_000}}),
        "x" * 100_000,
        "x" * 1_000_000,
        json.dumps({"type": "media.offer", "data": {"room": "r", "sdp": "x" * 1_000_000}}),
        json.dumps({"type": "media.offer", "data": {"room": "r", "sdp": "x" * MAX_OFFER_BYTES}}),
    ],
    ids=[
        "request 100 KB",
        "unknown 100 KB",
        "rubbish 100 KB",
        "rubbish 1 MB",
        "offer 1 MB",
        "offer over 256 KiB",
    ],
)
async def test_a_frame_that_is_too_large_closes_the_socket_with_4413(people, text):
    alice, bob = await people.wire("alice"), await people.wire("bob")
    await alice.send_text(text)
    assert await alice.closed() == 4413
    await bob.settled()


async def test_an_offer_may_be_larger_than_other_frames(people):
    alice = await people.wire("alice")
    frame = await alice.request("media.offer", {"room": "r", "sdp": "x" * 100_000})
    assert frame["data"]["code"] == "not_allowed"


async def test_bad_frames_that_keep_coming_close_the_socket_with_4400(people):
    alice, bob = await people.wire("alice"), await people.wire("bob")
    for _ in range(MAX_BAD_FRAMES):
        await alice.send_text("rubbish")
    await alice.settled()
    assert len(alice.of("error")) == MAX_BAD_FRAMES
    await alice.send_bytes(b"rubbish")
    assert await alice.closed() == 4400
    await bob.settled()


# Too fast, too slow, silent


async def test_a_flood_closes_the_socket_with_4429_and_others_do_not_notice(people):
    flooder, alice, bob = [await people.wire(user) for user in ("flooder", "alice", "bob")]
    call_id = await place(alice, "bob")
    for _ in range(int(BURST) + 2 * MAX_REFUSALS):
        await flooder.send_text('{"type": "ping"}')
    reply = await bob.request("call.answer", {"call_id": call_id})
    assert reply["data"]["call"]["status"] == "active"
    assert await flooder.closed() == 4429
    refused = flooder.of("error")
    assert {frame["data"]["code"] for frame in refused} == {"rate_limited"}
    assert all(frame["data"]["retryable"] for frame in refused)
    await settled(alice, bob)


async def test_a_request_refused_for_speed_is_answered_under_its_own_id(people):
    """PROTOCOL: a request gets exactly one reply or error with its `re`; else its sender waits in vain."""
    alice = await people.wire("alice")
    count = int(BURST) + 100
    for number in range(count):
        await alice.send("presence.watch", {"user_ids": []}, id=number)
    answered = await alice.until(lambda: found if len(found := alice.of("reply", "error")) == count else None)
    assert any(frame["type"] == "error" for frame in answered)
    assert [frame["re"] for frame in answered] == list(range(count))


async def test_a_silent_client_is_closed_with_4408(people, monkeypatch):
    """Neither a frame nor an answer to a ping of RFC 6455 comes from it."""
    monkeypatch.setattr(gateway, "PING_INTERVAL_S", 0.2)
    watcher = await people.client("watcher")
    await watcher.request("presence.watch", {"user_ids": ["alice"]})
    alice = await people.wire("alice", autoping=False)
    await alice.closed()
    await watcher.wait_for("presence.changed", lambda data: not data["online"])
    assert alice.code == 4408


async def test_a_client_that_only_answers_pings_is_not_silent(people, monkeypatch):
    """A browser answers them by itself while its page has nothing to say."""
    monkeypatch.setattr(gateway, "PING_INTERVAL_S", 0.1)
    quiet = await people.wire("quiet")
    dead = await people.wire("dead", autoping=False)
    await dead.closed()
    await quiet.settled()


async def test_a_reader_that_does_not_read_is_closed_and_holds_nobody_up(people, monkeypatch):
    monkeypatch.setattr(session_module, "CLOSE_TIMEOUT_S", 0.1)
    alice = await people.wire("alice")
    await alice.request("presence.watch", {"user_ids": ["slow"]})
    # A socket whose client never reads: asyncio stops reading for it, and TCP fills up.
    reader, writer = await asyncio.open_connection("127.0.0.1", people.server.http_port, limit=1024)
    writer.write(
        (
            f"GET /ws?token={people.token('slow')} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
            "Connection: upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        ).encode()
    )
    assert b"101" in await reader.readline()
    await alice.event("presence.changed")
    (slow,) = people.server.hub.sessions("slow")
    big = {"type": "data.received", "data": {"payload": "x" * 60_000}}
    for count in range(1000):
        slow.send(big)
        if count % 20 == 0:
            await alice.settled()  # the others are served all the while
        if not slow.is_online:
            break
    assert not slow.is_online
    gone = await alice.event("presence.changed", 2)
    assert gone["data"] == {"user_id": "slow", "name": "Slow", "online": False}
    writer.transport.abort()


# Resuming


async def story(people):
    """Ten events for bob, of several calls, some while a device is open; his socket and what came."""
    alice, bob = await people.wire("alice"), await people.wire("bob")
    for act in ("reject", "answer"):
        call_id = await place(alice, "bob")
        await bob.settled()
        await bob.request(f"call.{act}", {"call_id": call_id})
    await alice.request("call.update", {"call_id": call_id, "call_type": "video"})
    await alice.request("call.end", {"call_id": call_id})
    await settled(alice, bob)
    return alice, bob


def without_join(frame):
    call = {**frame["data"]["call"], "join": None}
    return {**frame, "data": {**frame["data"], "call": call}}


async def test_numbers_grow_by_one_for_each_user(people):
    alice, bob = await story(people)
    desk = await people.wire("bob")
    await place(alice, "bob")
    await settled(alice, bob, desk)
    assert [seq for seq, _ in alice.numbered()] == list(range(1, len(alice.numbered()) + 1))
    # One number belongs to `answered_elsewhere`, which the device that answered is not told.
    numbers = [seq for seq, _ in bob.numbered()]
    assert numbers == sorted(set(numbers))
    assert set(range(1, numbers[-1])) - set(numbers) == {6}
    assert desk.connected["seq"] == numbers[-2]
    assert desk.numbered() == bob.numbered()[-1:]


async def test_after_a_cut_every_later_event_comes_once_and_in_order_wherever_it_was_cut(people):
    alice, bob = await story(people)
    numbered = [frame for frame in bob.frames if "seq" in frame]
    token, last = bob.connected["resume_token"], numbered[-1]["seq"]
    for seq in range(last + 1):
        await bob.cut()
        bob = await people.wire("bob", resume=token, seq=seq)
        assert (bob.connected["resumed"], bob.connected["seq"]) == (True, seq)
        assert bob.connected["resume_token"] == token
        await bob.settled()
        expected = [without_join(frame) for frame in numbered if frame["seq"] > seq]
        assert [without_join(frame) for frame in bob.frames if "seq" in frame] == expected
        assert bob.of("call.snapshot") == []
    await place(alice, "bob")
    await bob.event("call.incoming")
    assert [seq for seq, _ in bob.numbered()] == [last + 1]


async def test_what_happens_during_the_cut_is_told_afterwards(people):
    alice, bob = await people.wire("alice"), await people.wire("bob")
    await alice.request("presence.watch", {"user_ids": ["bob"]})
    first = await place(alice, "bob")
    await bob.event("call.incoming")
    await bob.cut()
    await alice.event("presence.changed")
    await alice.request("call.cancel", {"call_id": first})
    second = await place(alice, "bob")
    again = await people.wire("bob", resume=bob.connected["resume_token"], seq=1)
    await again.event("call.incoming")
    assert again.connected["session_id"] == bob.connected["session_id"]
    assert again.numbered() == [(2, "call.cancelled"), (3, "call.ended"), (4, "call.incoming")]
    assert [f["data"]["call"]["id"] for f in again.frames if "seq" in f] == [first, first, second]
    reply = await again.request("call.answer", {"call_id": second})
    assert reply["data"]["call"]["status"] == "active"


async def test_a_call_survives_a_cut_of_either_side(people):
    alice, bob = await people.wire("alice"), await people.wire("bob")
    call_id = await place(alice, "bob")
    await bob.request("call.answer", {"call_id": call_id})
    await alice.event("call.answered")
    for wire, user in ((alice, "alice"), (bob, "bob")):
        seq = wire.numbered()[-1][0]
        await wire.cut()
        again = await people.wire(user, resume=wire.connected["resume_token"], seq=seq)
        assert again.connected["resumed"]
        state = await again.request("call.state", {"call_id": call_id})
        assert state["data"]["call"]["status"] == "active"


async def test_a_client_may_come_back_before_the_server_sees_that_it_was_gone(people):
    bob = await people.wire("bob")
    again = await people.wire("bob", resume=bob.connected["resume_token"], seq=0)
    assert again.connected["resumed"]
    assert await bob.closed() == 4409
    alice = await people.wire("alice")
    await place(alice, "bob")
    await again.event("call.incoming")
    assert bob.of("call.incoming") == []


@pytest.mark.parametrize(
    "seq", ["999", "-1", "x", "", "1.0", "9" * 20, "0x1", "\N{ARABIC-INDIC DIGIT ONE}", None]
)
async def test_with_a_number_that_cannot_be_there_is_a_snapshot(people, seq):
    alice, bob = await people.wire("alice"), await people.wire("bob")
    call_id = await place(alice, "bob")
    await bob.event("call.incoming")
    await bob.cut()
    again = await people.wire("bob", resume=bob.connected["resume_token"], seq=seq)
    assert not again.connected["resumed"]
    assert again.connected["seq"] == 1
    snapshot = await again.event("call.snapshot")
    assert [call["id"] for call in snapshot["data"]["calls"]] == [call_id]
    await again.settled()
    assert again.numbered() == []
    await alice.request("call.cancel", {"call_id": call_id})
    await again.event("call.ended")
    assert [number for number, _ in again.numbered()] == [2, 3]


async def test_with_an_unknown_token_is_a_snapshot(people):
    alice = await people.wire("alice")
    call_id = await place(alice, "bob")
    for token in ("unknown", "x" * 1000, "é", alice.connected["resume_token"]):
        bob = await people.wire("bob", resume=token, seq=0)
        assert not bob.connected["resumed"]
        assert bob.connected["resume_token"] != token
        snapshot = await bob.event("call.snapshot")
        assert [call["id"] for call in snapshot["data"]["calls"]] == [call_id]
    assert alice.connected["session_id"] != bob.connected["session_id"]
    await alice.settled()


async def test_after_goodbye_a_session_is_not_taken_up_again(people):
    bob = await people.wire("bob")
    await bob.close()
    watcher = await people.wire("watcher")
    await watcher.settled()
    again = await people.wire("bob", resume=bob.connected["resume_token"], seq=0)
    assert not again.connected["resumed"]


async def test_what_the_server_no_longer_has_is_not_pretended(people, monkeypatch):
    monkeypatch.setattr(memory, "MAX_EVENTS_PER_USER", 2)
    alice, bob = await people.wire("alice"), await people.wire("bob")
    for _ in range(2):
        call_id = await place(alice, "bob")
        await alice.request("call.cancel", {"call_id": call_id})
    await bob.settled()
    again = await people.wire("bob", resume=bob.connected["resume_token"], seq=1)
    assert (again.connected["resumed"], again.connected["seq"]) == (False, 6)
    await again.event("call.snapshot")
    third = await people.wire("bob", resume=again.connected["resume_token"], seq=4)
    await third.settled()
    assert (third.connected["resumed"], [n for n, _ in third.numbered()]) == (True, [5, 6])


# Media, as far as it concerns the socket

RUBBISH = [
    "rubbish",
    "v=0",
    "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n",
    "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\nm=audio\r\n",
    "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\n",
    "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\nm=audio 9 UDP/TLS/RTP/SAVPF x y\r\na=mid:0\r\n",
    "m=" * 1000,
    "\0\0\0",
    "a=ice-ufrag:\r\n" * 50,
]


async def test_an_offer_that_is_rubbish_is_a_bad_sdp(people):
    alice = await people.wire("alice")
    await people.wire("bob")
    call_id = await place(alice, "bob")
    for sdp in RUBBISH:
        frame = await alice.request("media.offer", {"call_id": call_id, "sdp": sdp})
        assert (frame["type"], frame["data"]["code"]) == ("error", "bad_sdp"), sdp[:80]
    assert people.server.plane.peers == 0
    state = await alice.request("call.state", {"call_id": call_id})
    assert state["data"]["call"]["status"] == "ringing"


async def test_an_offer_for_a_call_of_others_finds_no_call(people):
    alice, mallory = await people.wire("alice"), await people.wire("mallory")
    call_id = await place(alice, "bob")
    master = await people.wire("master", token=people.token("master", grants={"room": "*"}))
    for wire in (mallory, master):
        for target in ({"call_id": call_id}, {"room": call_id}, {"call_id": "call_none"}):
            frame = await wire.request("media.offer", {**target, "sdp": "v=0"})
            assert frame["data"]["code"] == "call_not_found", target


async def test_an_offer_for_a_room_without_the_grant_is_not_allowed(people):
    plain = await people.wire("plain")
    guest = await people.wire("guest", token=people.token("guest", grants={"room": "lobby"}))
    for wire in (plain, guest):
        frame = await wire.request("media.offer", {"room": "board", "sdp": "v=0"})
        assert frame["data"]["code"] == "not_allowed"
    frame = await guest.request("media.offer", {"room": "lobby", "sdp": "v=0"})
    assert frame["data"]["code"] == "bad_sdp"


@pytest.mark.parametrize("target", [{}, {"room": "r", "call_id": "c"}])
async def test_an_offer_is_for_one_room_or_one_call(people, target):
    alice = await people.wire("alice")
    frame = await alice.request("media.offer", {**target, "sdp": "v=0"})
    assert frame["data"]["code"] == "bad_request"


async def test_an_offer_for_a_call_that_is_over_is_refused(people):
    alice = await people.wire("alice")
    call_id = await place(alice, "bob")
    await alice.request("call.cancel", {"call_id": call_id})
    frame = await alice.request("media.offer", {"call_id": call_id, "sdp": "v=0"})
    assert frame["data"]["code"] == "invalid_state"


@pytest.mark.parametrize(
    ("type_", "data", "code"),
    [
        ("media.prefer", {"mid": "0"}, "no_media"),
        ("media.prefer", {}, "bad_request"),
        ("media.mute", {"track_id": "t", "muted": True}, "no_media"),
        ("data.send", {"payload": 1}, "no_media"),
    ],
)
async def test_without_media_there_is_nothing_to_steer(people, type_, data, code):
    alice = await people.wire("alice")
    frame = await alice.request(type_, data)
    assert (frame["type"], frame["data"]["code"]) == ("error", code)


async def test_media_is_muted_preferred_addressed_and_left(people):
    """The requests of media.* over the socket; what the packets do is tested elsewhere."""
    grants = {"room": "lobby"}
    alice = await people.client("alice", token=people.token("alice", grants=grants))
    bob = await people.client("bob", token=people.token("bob", grants=grants))
    speaking, listening = (MediaConnection(client, lambda mid, frame: None) for client in (alice, bob))
    try:
        await speaking.join({"room": "lobby"}, [Tone(440)], video_slots=0)
        await speaking.connected()
        reply = await listening.join({"room": "lobby"}, [], video_slots=0)
        await listening.connected()
        assert reply["room_name"] == "lobby"
        track_id = (await wait_for_slot(bob, listening))["track_id"]
        await alice.request("media.mute", {"track_id": track_id, "muted": True})
        muted = await bob.wait_for("media.track_muted")
        assert (muted["data"]["track_id"], muted["data"]["muted"]) == (track_id, True)
        assert await bob.request("media.prefer", {"track_id": track_id, "paused": True}) == {}
        with pytest.raises(Refused) as refused:
            await bob.request("media.mute", {"track_id": track_id, "muted": True})
        assert refused.value.code == "track_not_found"
        await bob.request("data.send", {"payload": {"hello": [1]}, "topic": "chat"})
        assert (await alice.wait_for("data.received"))["data"]["payload"] == {"hello": [1]}
        await alice.request("media.leave")
        left = await bob.wait_for("media.participant_left")
        assert left["data"]["participant_id"] == speaking.participant_id
        with pytest.raises(Refused) as refused:
            await alice.request("data.send", {"payload": 1})
        assert refused.value.code == "no_media"
    finally:
        await speaking.close()
        await listening.close()


async def wait_for_slot(client, connection):
    """Return the first slot of a connection that has a track."""
    while not (bound := [slot for slot in connection.slots if slot["track_id"]]):
        await client.wait_for("media.slots")
    return bound[0]


async def test_leaving_without_media_and_candidates_are_no_fault(people):
    alice = await people.wire("alice")
    assert (await alice.request("media.leave"))["type"] == "reply"
    assert (await alice.request("media.candidate", {"candidate": None}))["type"] == "reply"


# The stop of a server


async def test_a_server_that_stops_sends_everybody_away_with_1012_and_they_can_come_back(run, people_of):
    settings = Settings(http=Http(port=0), media=MEDIA, auth=Auth(secret=SECRET))
    async with run(settings) as first:
        people = people_of(first)
        alice, bob = await people.wire("alice"), await people.wire("bob")
        await place(alice, "bob")
        port, token = first.http_port, bob.connected["resume_token"]
    assert [await wire.closed() for wire in (alice, bob)] == [1012, 1012]
    await people.close()
    again = settings.model_copy(update={"http": Http(port=port)})
    async with run(again) as second:
        people = people_of(second)
        bob = await people.wire("bob", resume=token, seq=1)
        assert not bob.connected["resumed"]
        assert (await bob.event("call.snapshot"))["data"] == {"calls": []}
        await people.close()


async def test_while_it_drains_a_server_takes_nobody_and_says_so(people):
    alice = await people.wire("alice")
    await people.server.gateway.drain()
    assert await alice.closed() == 1012
    assert await opened(people.url, **WAYS["query"](people.token("bob"))) == (None, 1012)
    async with aiohttp.ClientSession() as http:
        async with http.get(f"http://127.0.0.1:{people.server.http_port}/readyz") as response:
            assert response.status == 503
        async with http.get(f"http://127.0.0.1:{people.server.http_port}/healthz") as response:
            assert response.status == 200


async def test_what_is_open_is_counted(people):
    async def metric(name):
        url = f"http://127.0.0.1:{people.server.http_port}/metrics"
        async with aiohttp.ClientSession() as http, http.get(url) as response:
            lines = dict(
                line.rsplit(" ", 1) for line in (await response.text()).splitlines() if line[0] != "#"
            )
        return float(lines[name])

    await people.wire("alice")
    await people.wire("bob")
    await opened(people.url)
    assert await metric("sfu_sockets") == 2
    assert await metric("sfu_auth_failures_total") == 1
