"""The server never decodes: no codec context is opened in its process, and no thread of one runs."""

import asyncio
import json
import sys
from pathlib import Path

from sfu.bot.client import Client
from sfu.bot.media import MediaConnection
from sfu.bot.patterns import CounterVideo, Tone
from tests.support.process import server_process

# Runs `sfu serve --dev` and says at its end which codec contexts were ever opened in it.
# PyAV has one door to them: CodecContext.create, which all of its and aiortc's coders use.
WATCHED = """
import atexit, gc, json, sys
import av
from av.codec import context

opened = []

class Watched:
    @staticmethod
    def create(codec, mode=None, hwaccel=None):
        opened.append([str(codec), mode])
        return original.create(codec, mode, hwaccel)

original = context.CodecContext
import sfu.__main__, sfu.server
import aiortc.codecs.opus, aiortc.codecs.vpx, aiortc.codecs.h264, aiortc.codecs.g711, aiortc.codecs.g722
for name, module in list(sys.modules.items()):
    if name.startswith(("aiortc", "av", "sfu")):
        for key, value in list(vars(module).items()):
            if value is original:
                setattr(module, key, Watched)

if "--prove" in sys.argv:
    from aiortc.codecs import get_encoder, get_decoder
    from aiortc.rtcrtpparameters import RTCRtpCodecParameters
    codec = RTCRtpCodecParameters("audio/opus", 48000, 2, 96)
    get_decoder(codec), get_encoder(codec)

@atexit.register
def tell():
    alive = [repr(o) for o in gc.get_objects() if isinstance(o, original)]
    open(sys.argv[1], "w").write(json.dumps({"opened": opened, "alive": alive}))

if "--prove" not in sys.argv:
    sys.argv = sys.argv[:2]
    path = sys.argv.pop()
    sys.argv[:] = ["sfu", "serve", "--dev"]
    try:
        sfu.__main__.main()
    finally:
        sys.argv[:] = ["sfu", path]
"""


def threads(pid: int) -> list[str]:
    return sorted((task / "comm").read_text().strip() for task in Path(f"/proc/{pid}/task").iterdir())


async def test_the_watch_would_see_a_codec(tmp_path):
    """The counterpart: a program that opens an Opus decoder and encoder is caught."""
    told = tmp_path / "told.json"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", WATCHED, str(told), "--prove")
    assert await process.wait() == 0
    assert len(json.loads(told.read_text())["opened"]) == 2


async def test_no_codec_context_is_opened_in_the_server(tmp_path):
    """Two peers send and decode pictures and tones; the server opens nothing and grows no thread."""
    told = tmp_path / "told.json"
    async with server_process("-c", WATCHED, str(told)) as server:
        before = threads(server.process.pid)
        decoded = {"ada": asyncio.Event(), "bob": asyncio.Event()}
        async with (
            Client(server.ws_url, await server.token("ada")) as ada,
            Client(server.ws_url, await server.token("bob")) as bob,
        ):
            media = [
                MediaConnection(c, lambda _m, _f, n=n: decoded[n].set())
                for n, c in (("ada", ada), ("bob", bob))
            ]
            for connection in media:
                await connection.join({"room": "r"}, [Tone(440), CounterVideo()])
            async with asyncio.timeout(15):
                await asyncio.gather(*(event.wait() for event in decoded.values()))
            assert threads(server.process.pid) == before
            assert (await server.metrics())["sfu_packets_forwarded_total"] > 0
            for connection in media:
                await connection.close()
    assert json.loads(told.read_text()) == {"opened": [], "alive": []}
