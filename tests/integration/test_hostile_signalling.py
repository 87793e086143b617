"""Attacks on the socket while two talk on the same server: not a frame of theirs is missing."""

import asyncio
import json
import time

import aiohttp
import jwt
import pytest

from sfu.auth import mint
from sfu.bot.client import Client, Refused
from sfu.bot.media import MediaConnection
from sfu.bot.patterns import CounterVideo, Tone, read_number
from tests.support.process import server_process

SECRET = "a secret of this test, long enough for HS256"


class Talker:
    """One end of the running call, with the numbers of the pictures that it decoded."""

    def __init__(self, client):
        self.client = client
        self.media = MediaConnection(client, self._take)
        self.numbers = []
        self._arrived = asyncio.Event()

    def _take(self, _mid, frame):
        if hasattr(frame, "width"):
            self.numbers.append(read_number(frame))
            self._arrived.set()

    async def sees(self, more):
        wanted = len(self.numbers) + more
        async with asyncio.timeout(20):
            while len(self.numbers) < wanted:
                self._arrived.clear()
                await self._arrived.wait()


def bad_tokens():
    good = mint("mallory", secret=SECRET)
    claims = jwt.decode(good, options={"verify_signature": False})
    yield ""
    yield "rubbish"
    yield good[:-4] + "AAAA"
    yield mint("mallory", secret=SECRET, ttl_s=-60)
    yield mint("mallory", secret=SECRET, audience="another")
    yield mint("mallory", secret="another secret, long enough for HS256 too")
    yield jwt.encode(claims, None, algorithm="none")
    yield jwt.encode({**claims, "exp": int(time.monotonic())}, SECRET, algorithm="HS256")
    yield "A" * 7_000


async def close_code(http, url, token):
    """The code with which a socket of this token is closed."""
    async with http.ws_connect(url, params={"token": token}) as ws:
        message = await ws.receive(timeout=5)
        assert message.type is aiohttp.WSMsgType.CLOSE
        return ws.close_code


RUBBISH_FRAMES = [
    "",
    "{",
    "null",
    "[]",
    '"text"',
    "{}",
    '{"type": 7}',
    '{"type": "call.initiate", "id": "x", "data": []}',
    '{"type": "call.initiate", "id": "x", "data": {"callee_ids": [7]}}',
    '{"type": "no.such.type", "id": "x"}',
    '{"type": "media.offer", "id": "x", "data": {"room": "r", "sdp": "rubbish"}}',
    '{"a":' * 5000 + "1" + "}" * 5000,
    "\ud7ff\u0000\u202e" * 100,
]

RUBBISH_SDP = [
    "v=0",
    "v=0\r\n" * 1000,
    "v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\n",
    "v=0\r\n" + "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n" * 2000,
    "v=0\r\na=ice-ufrag:x\r\na=ice-pwd:y\r\na=fingerprint:sha-256 ZZ\r\nm=video 0 X 0\r\na=mid:0\r\n",
    "\x00" * 1000,
]


async def refused(client, type_, data):
    """The code with which a request is refused."""
    with pytest.raises(Refused) as caught:
        await client.request(type_, data)
    return caught.value.code


async def attack_with_frames(http, url, token):
    for frame in RUBBISH_FRAMES:
        async with http.ws_connect(url, params={"token": token}) as ws:
            await ws.send_str(frame)
            await ws.send_str('{"type": "ping", "id": "still"}')
            while (answer := json.loads((await ws.receive(timeout=5)).data))["type"] != "pong":
                assert answer["type"] in ("connected", "call.snapshot", "error")
    async with http.ws_connect(url, params={"token": token}) as ws:
        await ws.send_str("x" * (1 << 20))
        while (await ws.receive(timeout=5)).type is aiohttp.WSMsgType.TEXT:
            pass
        assert ws.close_code == 4413


async def attack_with_requests(url, token, call_id):
    async with Client(url, token) as mallory:
        for sdp in RUBBISH_SDP:
            assert await refused(mallory, "media.offer", {"room": "her-own", "sdp": sdp}) == "bad_sdp"
            offer = {"call_id": call_id, "sdp": sdp}
            assert await refused(mallory, "media.offer", offer) == "call_not_found"
        for act in ("answer", "reject", "cancel", "end", "leave"):
            assert await refused(mallory, f"call.{act}", {"call_id": call_id}) == "call_not_found"


async def test_nothing_on_the_socket_harms_a_running_call():
    async with (
        server_process("-m", "sfu", "serve", "--dev", SFU_AUTH__SECRET=SECRET) as server,
        Client(server.ws_url, await server.token("Ada")) as one,
        Client(server.ws_url, await server.token("Bob")) as two,
        aiohttp.ClientSession() as http,
    ):
        ada, bob = Talker(one), Talker(two)
        call = (await one.request("call.initiate", {"callee_ids": ["bob"]}))["call"]
        await two.wait_for("call.incoming")
        await two.request("call.answer", {"call_id": call["id"]})
        for talker, tone in ((ada, 440), (bob, 660)):
            await talker.media.join({"call_id": call["id"]}, [Tone(tone), CounterVideo()])
        await asyncio.gather(ada.sees(20), bob.sees(20))

        assert [await close_code(http, server.ws_url, token) for token in bad_tokens()] == [4401] * 9
        await asyncio.gather(ada.sees(5), bob.sees(5))

        token = await server.token("Mallory")
        await attack_with_frames(http, server.ws_url, token)
        await attack_with_requests(server.ws_url, token, call["id"])
        await asyncio.gather(ada.sees(20), bob.sees(20))
        for talker in (ada, bob):
            first = talker.numbers[0]
            assert talker.numbers == list(range(first, first + len(talker.numbers)))
        assert (await one.request("call.state", {"call_id": call["id"]}))["call"]["status"] == "active"
        assert [entry for entry in server.log if entry.get("level") == "error"] == []
        for talker in (ada, bob):
            await talker.media.close()
