"""Webhooks and notifications: in order, signed, again until they are taken; never to an address inside."""

import asyncio
import hashlib
import hmac
import json

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from sfu.calls import webhooks
from sfu.calls.webhooks import PublicResolver, check_url
from sfu.errors import BadRequest

TIMEOUT_S = 10


class Host:
    """The host application: what it was told, and how it answers."""

    def __init__(self):
        self.told, self.answers, self.url = [], [], ""
        self._arrived = asyncio.Event()

    async def take(self, request):
        body = await request.read()
        status = self.answers.pop(0) if self.answers else 200
        self.told.append((status, request.headers["Sfu-Signature"], body))
        self._arrived.set()
        return web.Response(status=status)

    async def wait_for(self, count):
        """Wait until so many were taken; return their bodies."""
        async with asyncio.timeout(TIMEOUT_S):
            while len(self.taken) < count:
                self._arrived.clear()
                await self._arrived.wait()
        return self.taken

    @property
    def taken(self):
        return [json.loads(body) for status, _, body in self.told if status < 300]


@pytest_asyncio.fixture
async def host():
    made = Host()
    app = web.Application()
    app.router.add_post("/hook", made.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield made
    await runner.cleanup()


@pytest_asyncio.fixture
async def ask(server):
    async with aiohttp.ClientSession() as http:

        async def request(user, method, path, body=None, **grants):
            token = server.authority.mint(user, user.title(), grants=grants)
            url = f"http://127.0.0.1:{server.http_port}/api/v1{path}"
            headers = {"Authorization": f"Bearer {token}"}
            async with http.request(method, url, json=body, headers=headers) as response:
                return response.status, await response.json(
                    content_type=None
                ) if response.status != 204 else None

        yield request


async def place_and_reject(ask):
    _, call = await ask("ada", "POST", "/calls/initiate", {"callee_ids": ["bob"], "call_type": "voice"})
    await ask("bob", "POST", f"/calls/{call['id']}/reject")
    return call["id"]


async def test_the_host_is_told_in_order_and_can_check_it(ask, host):
    """Each event once, numbered, with a signature over its time and its bytes."""
    status, hook = await ask("boss", "POST", "/webhooks", {"url": host.url}, admin=True)
    assert status == 201
    call_id = await place_and_reject(ask)
    told = await host.wait_for(3)
    assert [(one["seq"], one["type"]) for one in told] == [
        (1, "call.incoming"),
        (2, "call.rejected"),
        (3, "call.ended"),
    ]
    assert all(one["data"]["call"]["id"] == call_id and one["webhook_id"] == hook["id"] for one in told)
    for _, signature, body in host.told:
        at, digest = (part.partition("=")[2] for part in signature.split(","))
        assert (
            hmac.new(hook["secret"].encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest() == digest
        )
    _, listed = await ask("boss", "GET", "/webhooks", admin=True)
    assert [(one["id"], one["last_seq"], "secret" in one) for one in listed["webhooks"]] == [
        (hook["id"], 3, False)
    ]
    assert (await ask("ada", "GET", "/webhooks"))[0] == 403


async def test_what_is_not_taken_is_tried_again_and_nothing_overtakes_it(ask, host, monkeypatch):
    monkeypatch.setattr(webhooks, "RETRIES_S", (0.05,))
    host.answers = [500, 404, 302, 200]
    await ask(
        "boss", "POST", "/webhooks", {"url": host.url, "types": ["call.incoming", "call.ended"]}, admin=True
    )
    await place_and_reject(ask)
    told = await host.wait_for(2)
    assert [(one["seq"], one["type"]) for one in told] == [(1, "call.incoming"), (2, "call.ended")]
    assert [json.loads(body)["seq"] for _, _, body in host.told] == [1, 1, 1, 1, 2]


async def test_the_host_may_be_told_again(ask, host):
    """From a number on; and no more once the webhook is gone."""
    _, hook = await ask("boss", "POST", "/webhooks", {"url": host.url}, admin=True)
    await place_and_reject(ask)
    await host.wait_for(3)
    status, again = await ask("boss", "POST", f"/webhooks/{hook['id']}/replay", {"from_seq": 2}, admin=True)
    assert (status, again) == (200, {"deliveries": 2})
    told = await host.wait_for(5)
    assert [one["seq"] for one in told] == [1, 2, 3, 2, 3]
    assert (await ask("boss", "DELETE", f"/webhooks/{hook['id']}", admin=True))[0] == 204
    assert (await ask("boss", "DELETE", f"/webhooks/{hook['id']}", admin=True))[0] == 404
    assert (await ask("boss", "POST", f"/webhooks/{hook['id']}/replay", admin=True))[0] == 404
    await place_and_reject(ask)
    assert len(host.told) == 5


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/x",
        "http://[::1]/x",
        "http://10.1.2.3/x",
        "http://192.168.0.1:8080/x",
        "http://169.254.169.254/latest",
        "http://[fe80::1]/x",
        "http://[::ffff:127.0.0.1]/x",
        "http://0.0.0.0/x",
        "http://224.0.0.1/x",
        "ftp://example.com/x",
        "https://user:password@example.com/x",
        "https:///x",
        "http://[::1/x",
        "nonsense",
    ],
)
def test_an_address_inside_is_refused(url):
    with pytest.raises(BadRequest) as refused:
        check_url(url, allow_private=False)
    assert refused.value.code == "bad_url"


def test_addresses_outside_are_taken():
    for url in ("https://example.com/x", "http://8.8.8.8/x", "http://[2606:4700::1]/x"):
        check_url(url, allow_private=False)
    check_url("http://127.0.0.1/x", allow_private=True)


async def test_a_name_of_an_address_inside_is_refused_when_it_is_resolved():
    """What is checked is what is connected to."""
    resolver = PublicResolver()
    with pytest.raises(OSError, match="inside"):
        await resolver.resolve("localhost", 80)
    await resolver.close()


async def test_notifications_of_calls_that_came_in_and_were_missed(ask):
    """The newest first; each user his own."""
    body = {"callee_ids": ["bob"], "call_type": "video", "ring_timeout_s": 1}
    _, call = await ask("ada", "POST", "/calls/initiate", body)
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            _, found = await ask("bob", "GET", "/notifications")
            if len(found["notifications"]) == 2:
                break
            await asyncio.sleep(0.1)
    verbs = [one["verb"] for one in found["notifications"]]
    assert sorted(verbs) == ["incoming_video_call", "missed_video_call"]
    first = found["notifications"][0]
    assert first["data"] == {
        "conversation_id": None,
        "call_id": call["id"],
        "from": "ada",
        "from_name": "Ada",
    }
    status, read = await ask("bob", "POST", f"/notifications/{first['id']}/read")
    assert status == 200 and read["read_at"]
    _, again = await ask("bob", "POST", f"/notifications/{first['id']}/read")
    assert again["read_at"] == read["read_at"]
    _, unread = await ask("bob", "GET", "/notifications?unread=true")
    assert [one["id"] for one in unread["notifications"]] == [found["notifications"][1]["id"]]
    assert (await ask("ada", "POST", f"/notifications/{first['id']}/read"))[0] == 404
    assert (await ask("ada", "GET", "/notifications"))[1] == {"notifications": []}
