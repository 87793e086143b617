"""A server whose tokens an identity provider signs: from the first request to a change of its keys."""

import asyncio

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from sfu import jwks
from sfu.server import Server
from sfu.settings import Auth, Http, Media, Settings, Store
from sfu.signaling.gateway import CloseCode
from tests.support.identity_provider import KEYS, identity_provider, key_set, member, signed

# The names of its keys.
OURS = {"spring": KEYS["ES256"], "autumn": ec.generate_private_key(ec.SECP256R1())}


def shown(name):
    """What the provider says when it has this key."""
    return key_set(member("ES256", name, OURS[name]))


def token(name):
    return signed("ES256", name, OURS[name])


@pytest.fixture
async def provider():
    async with identity_provider() as its:
        its.said = shown("spring")
        yield its


class Caller:
    """Somebody with tokens of the provider."""

    def __init__(self, port, http):
        self._at, self._http = f"127.0.0.1:{port}", http

    async def ready(self):
        async with self._http.get(f"http://{self._at}/readyz") as response:
            return response.status, (await response.json())

    async def asks(self, key):
        headers = {"Authorization": f"Bearer {token(key)}"}
        async with self._http.get(f"http://{self._at}/api/v1/calls/ring_state", headers=headers) as response:
            return response.status, (await response.json())

    async def connects(self, key):
        """Return what the first frame calls him, or the code with which he was sent away."""
        subprotocols = ["sfu.v1", f"bearer.{token(key)}"]
        async with self._http.ws_connect(f"ws://{self._at}/ws", protocols=subprotocols) as ws:
            message = await ws.receive()
            return (
                message.json()["data"]["user_id"] if message.type is aiohttp.WSMsgType.TEXT else ws.close_code
            )


@pytest.fixture
async def caller(provider):
    settings = Settings(
        http=Http(host="127.0.0.1", port=0),
        media=Media(listen_ip="127.0.0.1", udp_port=0, tcp_port=0),
        auth=Auth(algorithms=["ES256"], jwks_url=provider.url),
        store=Store(url="memory://"),
    )
    server = Server(settings)
    await server.start()
    async with aiohttp.ClientSession() as http:
        yield Caller(server.http_port, http)
    await server.stop()


async def test_tokens_hold_over_rest_and_on_the_socket_also_when_the_keys_change(
    provider, caller, monkeypatch
):
    monkeypatch.setattr(jwks, "LOOK_AGAIN_S", 0.0)
    assert (await caller.ready())[0] == 200
    assert (await caller.asks("spring"))[0] == 200
    assert await caller.connects("spring") == "alice"
    assert (await caller.asks("autumn"))[0] == 401
    assert await caller.connects("autumn") == CloseCode.NOT_AUTHENTICATED
    provider.said = shown("autumn")
    assert await caller.connects("autumn") == "alice"
    assert (await caller.asks("autumn"))[0] == 200
    assert (await caller.asks("spring"))[0] == 401


@pytest.fixture
def away(provider):
    provider.status = 502


@pytest.mark.usefixtures("away")
async def test_a_provider_that_is_away_at_the_start_keeps_the_server_from_being_ready(
    provider, caller, monkeypatch
):
    status, told = await caller.ready()
    assert status == 503
    assert "keys_away" in str(told)
    status, told = await caller.asks("spring")
    assert (status, told["code"], told["retryable"]) == (503, "keys_away", True)
    assert await caller.connects("spring") == CloseCode.OVERLOADED
    provider.status = 200
    monkeypatch.setattr(jwks, "LOOK_AGAIN_S", 0.0)
    async with asyncio.timeout(5):
        while (await caller.ready())[0] != 200:
            assert await caller.connects("spring") == "alice"
    assert (await caller.asks("spring"))[0] == 200
