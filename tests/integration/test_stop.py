"""The end of a server: one part of it that fails or hangs keeps nothing else open."""

import asyncio
import socket

import pytest
import structlog

from sfu import server as module
from sfu.server import Server
from sfu.settings import Http, Media, Settings


@pytest.fixture
def logged():
    with structlog.testing.capture_logs() as logged:
        yield logged


async def started():
    server = Server(Settings(http=Http(port=0), media=Media(udp_port=0, tcp_port=0)), dev=True)
    await server.start()
    return server


async def test_all_parts_end(logged):
    server = await started()
    assert await server.stop()
    assert {entry["log_level"] for entry in logged} == {"info"}


async def test_what_fails_or_hangs_is_told_and_the_rest_ends(logged, monkeypatch):
    before = asyncio.all_tasks()
    monkeypatch.setattr(module, "PART_S", 0.05)
    server = await started()
    ports = server.http_port, server.ports.tcp.port
    end_hub, end_webhooks = server.hub.close, server.webhooks.close

    async def fail():
        await end_hub()
        raise OSError("oops")

    async def hang():
        await end_webhooks()
        await asyncio.Event().wait()

    monkeypatch.setattr(server.hub, "close", fail)
    monkeypatch.setattr(server.webhooks, "close", hang)
    async with asyncio.timeout(10):
        assert not await server.stop()
    told = [
        (entry["event"], entry["part"].split(".")[-1]) for entry in logged if entry["log_level"] == "error"
    ]
    assert told == [("part_fails_to_end", "fail"), ("part_does_not_end", "hang")]
    assert asyncio.all_tasks() - before <= {asyncio.current_task()}
    for port in ports:
        with socket.socket() as again:
            assert again.connect_ex(("127.0.0.1", port)) != 0
