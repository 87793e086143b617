"""`sfu bench`: figures of a running server, and a clear word where there is none."""

import json

import pytest

from sfu.bench import Plan, Stream, percentiles, problems
from tests.integration.test_command_line import SECRET, sfu
from tests.support.process import server_process

PLAN = Plan("http://127.0.0.1:1", 1, 10, False, 10, 800, True, "room", 10, 0.01)
RIGHT = {"failed": [], "silent": [], "packets_per_s": 900, "loss": 0.0, "clients_cpu_percent": 20.0}


@pytest.fixture
async def server():
    async with server_process(
        "-m",
        "sfu",
        "serve",
        SFU_HTTP__HOST="127.0.0.1",
        SFU_MEDIA__LISTEN_IP="127.0.0.1",
        SFU_AUTH__SECRET=SECRET,
    ) as server:
        yield server


async def test_one_to_three(server):
    """Everybody gets every packet; the server's own figures stand beside."""
    code, out, err = await sfu(
        "bench", server.url, "--receivers", "3", "--seconds", "2", "--json", SFU_AUTH__SECRET=SECRET
    )
    assert code == 0, err
    report = json.loads(out)
    assert (report["ok"], report["joined"], report["packets_lost"]) == (True, 4, 0)
    # 25 pictures of 800 kbit/s and 50 sounds a second, to three.
    assert report["packets_per_s"] > 3 * (25 + 50) * 0.9
    assert 3 * 0.75 < report["mbit_per_s"] < 3 * 1.0
    assert len(report["first_video_ms"]) == len(report["latency_ms"]) == 3
    assert 0 < report["latency_ms"]["p50"] <= report["latency_ms"]["p99"]
    assert 0 < report["server"]["cpu_us_per_packet"] < 2_000
    assert 0.8 < report["server"]["packets_per_s"] / report["packets_per_s"] < 1.25


async def test_a_conference_told_in_a_table(server):
    """All send and receive."""
    code, out, err = await sfu(
        "bench", server.url, "--conference", "3", "--seconds", "1", "--no-audio", SFU_AUTH__SECRET=SECRET
    )
    assert code == 0, err
    assert "3 sending, 3 receiving" in out
    assert "0 (0.000%)" in out


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["http://127.0.0.1:1"], "Cannot connect"),
        (["ftp://127.0.0.1"], "http://"),
        (["--conference", "1"], "nobody"),
    ],
)
async def test_what_cannot_be_run_is_refused(arguments, word):
    """One sentence, exit code 2."""
    code, out, err = await sfu("bench", *arguments)
    assert (code, out) == (2, "")
    assert word in err and "Traceback" not in err


async def test_another_secret_is_told(server):
    """Its tokens are worth nothing here."""
    code, out, err = await sfu("bench", server.url, SFU_AUTH__SECRET=SECRET[::-1])
    assert (code, out) == (2, "")
    assert "the token was refused (4401)" in err and "Traceback" not in err


async def test_without_a_secret_it_says_what_it_needs(server):
    """A server that is not for development gives no tokens away."""
    code, out, err = await sfu("bench", server.url)
    assert (code, out) == (2, "")
    assert "SFU_AUTH__SECRET" in err


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"failed": ["receiver-2: refused"]}, "receiver-2: refused did not join"),
        ({"silent": ["receiver-3"]}, "nothing came to receiver-3"),
        ({"packets_per_s": 0}, "no packet came"),
        ({"loss": 0.02}, "2.00% of the packets were lost"),
        ({"clients_cpu_percent": 95.0}, "its own"),
    ],
)
def test_what_is_wrong_is_told(change, told):
    assert problems(RIGHT, PLAN) == []
    (problem,) = problems({**RIGHT, **change}, PLAN)
    assert told in problem


def test_numbers_that_lack_are_lost():
    """Over the wrap, and late ones are not."""
    stream = Stream(0xFFFE)
    for sequence in (0xFFFE, 0, 0xFFFF, 3):
        stream.take(sequence)
    assert stream.lost == 2
    assert percentiles([], (50,)) == {}
    assert percentiles([1.0, 3.0], (50, 100)) == {"p50": 2.0, "max": 3.0}
