"""The sockets and paths of the systems before this one, as their front ends use them."""

import asyncio
import json
from contextlib import asynccontextmanager

import aiohttp
import pytest
import pytest_asyncio

TIMEOUT_S = 5


class Page:
    """A socket of a front end: what it was told, in order."""

    def __init__(self, ws):
        self.ws, self.frames = ws, []

    async def say(self, **frame):
        await self.ws.send_str(json.dumps(frame))

    async def next(self, name):
        """The next frame of a name, by `event` or `type`; others before it are kept."""
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                message = await self.ws.receive()
                assert message.type is aiohttp.WSMsgType.TEXT, (message, self.frames)
                frame = json.loads(message.data)
                self.frames.append(frame)
                if name in (frame.get("event"), frame.get("type")):
                    return frame


@pytest_asyncio.fixture
async def front(server):
    """Open sockets, and send requests, of users."""
    base = f"127.0.0.1:{server.http_port}"
    async with aiohttp.ClientSession() as http:

        class Front:
            @staticmethod
            @asynccontextmanager
            async def page(user, path, token=None):
                token = token or server.authority.mint(user, user.title())
                async with http.ws_connect(f"ws://{base}{path}", params={"token": token}) as ws:
                    yield Page(ws)

            @staticmethod
            async def post(user, path, body=None, **grants):
                token = server.authority.mint(user, user.title(), grants=grants)
                headers = {"Authorization": f"Bearer {token}"}
                async with http.post(f"http://{base}{path}", json=body or {}, headers=headers) as response:
                    return response.status, await response.json(content_type=None)

            @staticmethod
            async def put(path, body):
                token = server.authority.mint("boss", grants={"admin": True})
                headers = {"Authorization": f"Bearer {token}"}
                async with http.put(f"http://{base}{path}", json=body, headers=headers) as response:
                    assert response.status in (200, 201)

        yield Front


async def test_video_call_notifications(front):
    """Initiated, answered, ended: each end is told in the words of the CRM."""
    async with (
        front.page("ada", "/ws/video-call/ada/") as ada,
        front.page("bob", "/ws/video-call/bob/") as bob,
    ):
        hello = await bob.next("connected")
        assert hello == {"event": "connected", "data": {"message": "Connected to video call notifications"}}
        await bob.say(type="ping")
        assert await bob.next("pong") == {"type": "pong"}
        status, call = await front.post("ada", "/calls/initiate/", {"recipient_id": "bob"})
        assert (status, call["status"], call["recipient"], call["call_type"]) == (
            201,
            "pending",
            "bob",
            "video",
        )
        told = (await bob.next("call-initiated"))["data"]
        assert (told["id"], told["initiator"], told["initiator_name"]) == (call["id"], "ada", "Ada")
        assert set(told["jitsi_url"]) == {"url", "token", "room_name"}
        assert told["participants"] == ["ada", "bob"]
        status, answered = await front.post("bob", f"/calls/{call['id']}/answer/")
        assert (status, answered["status"]) == (200, "active")
        assert (await ada.next("call-answered"))["data"]["status"] == "active"
        status, ended = await front.post("ada", f"/calls/{call['id']}/end/")
        assert (status, ended["status"]) == (200, "ended")
        for page in (ada, bob):
            assert (await page.next("call-ended"))["data"]["status"] == "ended"


async def test_a_rejected_call_says_so(front):
    async with front.page("ada", "/ws/video-call/ada/") as ada:
        _, call = await front.post("ada", "/calls/initiate/", {"recipient": "bob", "call_type": "audio"})
        assert call["call_type"] == "voice"
        status, rejected = await front.post("bob", f"/calls/{call['id']}/reject/", {"reason": "no"})
        assert (status, rejected["status"]) == (200, "rejected")
        assert (await ada.next("call-rejected"))["data"]["id"] == call["id"]
        assert (await ada.next("call-ended"))["data"]["status"] == "rejected"


async def test_a_page_that_is_loaded_while_it_rings_rings(front):
    _, call = await front.post("ada", "/calls/initiate/", {"recipient": "bob"})
    async with front.page("bob", "/ws/video-call/bob/") as bob:
        assert (await bob.next("call-initiated"))["data"]["id"] == call["id"]
    async with front.page("bob", "/ws/notifications/") as bob:
        assert (await bob.next("call.incoming"))["data"]["call_id"] == call["id"]


@pytest.mark.parametrize(
    ("user", "path", "token", "code"),
    [
        ("eve", "/ws/video-call/bob/", None, 4403),
        ("eve", "/ws/chat/talk/", None, 4403),
        ("eve", "/ws/chat/none/", None, 4403),
        ("eve", "/ws/video-call/eve/", "bad", 4401),
        ("eve", "/ws/notifications/", "bad", 4401),
    ],
)
async def test_what_is_not_yours_is_closed(front, user, path, token, code):
    await front.put("/api/v1/conversations/talk", {"participants": ["ada", "bob"]})
    async with front.page(user, path, token) as page:
        message = await page.ws.receive(timeout=TIMEOUT_S)
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, code)


async def test_a_call_goes_to_the_conversation_and_to_the_user(front):
    """A page with both sockets is told twice under one id; other conversations are not told."""
    await front.put("/api/v1/conversations/talk", {"participants": ["ada", "bob", "eve"]})
    await front.put("/api/v1/conversations/other", {"participants": ["bob", "eve"]})
    async with (
        front.page("bob", "/ws/notifications/") as everywhere,
        front.page("bob", "/ws/chat/talk/") as chat,
        front.page("bob", "/ws/chat/other/") as other,
        front.page("ada", "/ws/chat/talk/") as ada,
    ):
        body = {"conversation_id": "talk", "call_type": "voice"}
        status, call = await front.post("ada", "/calls/initiate/", body)
        assert status == 201
        first, second = await everywhere.next("call.incoming"), await chat.next("call.incoming")
        assert first["event_id"] == second["event_id"]
        assert first["data"]["conversation_id"] == "talk"
        for page in (everywhere, chat):
            told = (await page.next("notification.created"))["data"]
            assert told == {
                "verb": "incoming_voice_call",
                "data": {"conversation_id": "talk", "call_id": call["id"]},
            }
        await chat.say(type="call.answer", call_id=call["id"])
        answered = await ada.next("call.answered")
        assert answered["data"]["by"] == "bob"
        await ada.say(type="call.end", data={"call_id": call["id"]})
        ends = [(await page.next("call.end"))["event_id"] for page in (everywhere, chat, ada)]
        assert len(set(ends)) == 1
        await other.say(type="ping")
        await other.next("pong")
        assert [frame["type"] for frame in other.frames] == ["pong"]


async def test_an_offer_negotiates_with_the_server(front):
    """`call.offer` is answered by the server's own SDP; nobody sees the other's."""
    from aiortc import RTCPeerConnection

    connection = RTCPeerConnection()
    connection.addTransceiver("audio")
    await connection.setLocalDescription(await connection.createOffer())
    async with front.page("ada", "/ws/notifications/") as ada:
        _, call = await front.post("ada", "/calls/initiate/", {"recipient": "bob", "call_type": "voice"})
        await ada.say(type="call.offer", data={"call_id": call["id"], "sdp": connection.localDescription.sdp})
        answer = await ada.next("call.answer")
        assert answer["data"]["call_id"] == call["id"]
        assert "a=ice-lite" in answer["data"]["sdp"]
        await ada.say(type="call.offer", data={"call_id": "call_none", "sdp": "v=0"})
        assert (await ada.next("error"))["data"]["code"] == "call_not_found"
    await connection.close()


async def test_a_page_may_offer_on_one_socket_and_answer_on_the_other(front, server):
    """The sockets of one page are no rival devices: its media connection stays."""
    from aiortc import RTCPeerConnection

    connection = RTCPeerConnection()
    connection.addTransceiver("audio")
    await connection.setLocalDescription(await connection.createOffer())
    await front.put("/api/v1/conversations/talk", {"participants": ["ada", "bob"]})
    async with front.page("bob", "/ws/notifications/") as bell, front.page("bob", "/ws/chat/talk/") as chat:
        body = {"conversation_id": "talk", "call_type": "voice"}
        _, call = await front.post("ada", "/calls/initiate/", body)
        await bell.next("call.incoming")
        await bell.say(
            type="call.offer", data={"call_id": call["id"], "sdp": connection.localDescription.sdp}
        )
        await bell.next("call.answer")
        await chat.next("call.incoming")
        await chat.say(type="call.answer", data={"call_id": call["id"]})
        await bell.next("call.answered")
        await bell.say(type="ping")
        await bell.next("pong")
        assert [peer.user_id for peer in server.plane.rooms[call["id"]].members.values()] == ["bob"]
        assert all(peer.admitted for peer in server.plane.rooms[call["id"]].members.values())
    await connection.close()


async def test_nonsense_is_refused_and_the_socket_lives(front):
    async with front.page("ada", "/ws/notifications/") as ada:
        for text in ("{", "[]", '{"type": 5}', '{"type": "call.fly"}', '{"type": "call.end"}'):
            await ada.ws.send_str(text)
            assert (await ada.next("error"))["data"]["code"] in ("bad_frame", "unknown_type", "bad_request")
        await ada.say(type="ping")
        await ada.next("pong")
