"""The short forms of what `make bench` and `make soak` do at length."""

import json

from bench import disturb, recording, report, soak
from bench.compare import run
from bench.servers import place, start


def test_what_is_sent_arrives_at_every_receiver():
    """Five receivers for two seconds: nothing lost, everything decrypted, and it cost something."""
    with place() as where:
        server = start("sfu", where)
        try:
            found = run(server, where, "fan5", 2.0)
        finally:
            server.stop()
    assert found["lost"] == 0
    assert found["not_decrypted"] == 0
    assert found["refused"] == 0
    assert found["receivers"] == 5
    assert found["packets_per_s"] > 5 * 140
    assert 0 < found["us_per_packet"] < 1000
    assert 0 < found["p50_ms"] <= found["p99_ms"]


def test_a_bad_receiver_costs_the_others_no_packet():
    """It stops reading, or floods; the others go on. How much latency it costs is told by `make bench`."""
    seen = []
    for kind, found in disturb.bad_receivers(disturb.KINDS, 5, 1, 1.0):
        seen.append(kind)
        assert found.lost() == (0, 0), kind
        (quiet,), (disturbed,) = found.quiet, found.disturbed
        assert disturbed["packets"] / disturbed["seconds"] > 0.95 * quiet["packets"] / quiet["seconds"], kind
    assert seen == list(disturb.KINDS)


def test_a_short_conference_leaves_nothing_behind():
    """Four people and guests who come and go: descriptors and tasks are those of before."""
    samples, counted = soak.soak(minutes=0.2, people=4, churn_s=3, every_s=2)
    print(f"worst stall {max(s['worst_stall_s'] for s in samples) * 1000:.1f} ms")
    assert counted["lost"] == 0
    assert counted["packets"] > 10 * 4 * 3 * 140
    assert samples[-1]["tasks"] <= samples[0]["tasks"] + 5
    assert samples[-1]["descriptors"] <= samples[0]["descriptors"] + 5


def test_calls_that_are_recorded_at_once_lose_nothing(capsys):
    """Five calls for three seconds: every frame is in a file, and every recording is right."""
    assert recording.main(["--calls", "5", "--seconds", "3"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["frames"] == report["frames_wanted"] == 5 * 2 * 3 * (30 + 50)
    assert (report["dropped"], report["failed"], report["wrong"]) == (0, 0, [])


def test_the_bars_are_judged_by_ratios():
    """A figure that is missing is no bar that is met."""
    ours, theirs = {"us_per_packet": 7.0, "p99_ms": 2.0, "kib_per_receiver": 90.0}, {"us_per_packet": 10.0}
    found = {"fan100": {"sfu": [ours], "pion": [theirs]}, "fan300": {"sfu": [{"us_per_packet": 6.0}]}}
    lines = report.bars(found, kernel=3.0, paced=4.0)
    assert lines[2:] == [
        "| CPU a packet, fan100, of pion's | 0.70 | 0.70 | met |",
        "| CPU a packet, fan300, of the kernel's sendmmsg alone | 2.00 | 1.80 | missed |",
        "| CPU a packet, fan300, of the kernel's sendmmsg alone, at the same pace | 1.50 | 1.80 | met |",
        "| added latency p99, ms, fan100 | 2.00 | 1.00 | missed |",
        "| memory a receiver, KiB, fan100 | 90.00 | 100.00 | met |",
    ]
