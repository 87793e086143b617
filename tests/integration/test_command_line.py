"""The commands as an operator meets them: in a process of their own."""

import asyncio
import json
import os
import signal
import socket
import sys
from contextlib import asynccontextmanager

import aiohttp
import pytest

from tests.support.process import server_process

SECRET = "a secret of more than thirty-two bytes"
FREE_PORTS = {
    "SFU_HTTP__PORT": "0",
    "SFU_MEDIA__UDP_PORT": "0",
    "SFU_MEDIA__TCP_PORT": "0",
    "SFU_STORE__URL": "memory://",
}
LOOPBACK = {"SFU_MEDIA__LISTEN_IP": "127.0.0.1"}


async def sfu(*arguments, **environment):
    """Run `python -m sfu` to its end; return its code, its output and what it complained of."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SFU_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "sfu",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**clean, **FREE_PORTS, **environment},
    )
    try:
        async with asyncio.timeout(30):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    return process.returncode, out.decode(), err.decode()


def is_refusal(result, *words):
    """Exit code 2, one clear sentence with these words, no traceback, no port."""
    code, out, err = result
    assert code == 2, (code, out, err)
    assert "Traceback" not in err
    assert '"ready"' not in err
    lines = [line for line in err.splitlines() if line.startswith("sfu: ")]
    assert len(lines) == 1, err
    for word in words:
        assert word in lines[0], lines[0]


@asynccontextmanager
async def occupied(kind):
    """A port of loopback that somebody else has."""
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        yield str(taken.getsockname()[1])


async def who_am_i(server, token):
    """Connect with a token; the first frame's data, or the close code."""
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(server.ws_url, params={"token": token}) as ws,
    ):
        message = await ws.receive(timeout=10)
        return json.loads(message.data)["data"] if message.type is aiohttp.WSMsgType.TEXT else ws.close_code


async def test_a_token_of_the_command_line_opens_the_socket_of_a_server_with_the_same_secret():
    async with server_process("-m", "sfu", "serve", SFU_AUTH__SECRET=SECRET, **LOOPBACK) as server:
        code, out, err = await sfu(
            "token", "--user", "bob", "--name", "Bob B.", "--room", "lobby", SFU_AUTH__SECRET=SECRET
        )
        assert (code, err) == (0, "")
        assert out.count("\n") == 1
        assert (await who_am_i(server, out.strip()))["user_id"] == "bob"
        _, other, _ = await sfu("token", "--user", "bob", SFU_AUTH__SECRET=SECRET[::-1])
        assert await who_am_i(server, other.strip()) == 4401
        async with aiohttp.ClientSession() as http:
            async with http.get(server.url + "/readyz") as response:
                assert response.status == 200
            async with http.post(server.url + "/dev/token", json={"name": "x"}) as response:
                assert response.status in (404, 405)
        server.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            assert await server.process.wait() == 0


async def test_a_server_that_is_interrupted_exits_with_zero():
    async with server_process() as server:
        async with aiohttp.ClientSession() as http, http.get(server.url + "/healthz") as response:
            assert response.status == 200
        server.process.send_signal(signal.SIGINT)
        async with asyncio.timeout(20):
            assert await server.process.wait() == 0


@pytest.mark.parametrize("secret", ["", "short", "x" * 31])
async def test_without_a_secret_or_with_a_short_one_nothing_starts(secret):
    result = await sfu("serve", **({"SFU_AUTH__SECRET": secret} if secret else {}))
    is_refusal(result, "auth.secret", "32")
    assert not secret or secret not in result[2]


async def test_tokens_need_the_secret_too():
    is_refusal(await sfu("token", "--user", "bob"), "auth.secret")


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("SFU_HTTP__HOST", "http.host"),
        ("SFU_MEDIA__LISTEN_IP", "media.listen_ip"),
        ("SFU_MEDIA__PUBLIC_IP", "media.public_ip"),
    ],
)
async def test_tokens_for_everybody_are_for_loopback_only(name, setting):
    is_refusal(await sfu("serve", "--dev", **{name: "0.0.0.0"}), setting, "loopback")


@pytest.mark.parametrize(
    ("kind", "name", "setting"),
    [
        (socket.SOCK_STREAM, "SFU_HTTP__PORT", "http.port"),
        (socket.SOCK_DGRAM, "SFU_MEDIA__UDP_PORT", "media.udp_port"),
        (socket.SOCK_STREAM, "SFU_MEDIA__TCP_PORT", "media.tcp_port"),
    ],
)
async def test_a_port_that_somebody_else_has_is_named(kind, name, setting):
    async with occupied(kind) as port:
        is_refusal(await sfu("serve", "--dev", **{name: port}), setting, port, "use")


async def test_a_wrong_setting_in_a_file_is_named(tmp_path):
    file = tmp_path / "wrong.toml"
    file.write_text("[calls]\nring_timeout_s = 'long'\n")
    is_refusal(await sfu("serve", "--dev", "--config", str(file)), "calls.ring_timeout_s")


async def test_a_file_that_is_missing_is_named(tmp_path):
    is_refusal(await sfu("serve", "--dev", "--config", str(tmp_path / "none.toml")), "none.toml")


async def test_a_grant_that_does_not_exist_is_named():
    is_refusal(await sfu("token", "--user", "b", "--grant", "fly", SFU_AUTH__SECRET=SECRET), "fly", "record")
