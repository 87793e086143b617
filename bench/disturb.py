"""What one participant may do to the others: bad receivers, and joins into a busy room.

    python -m bench.disturb [--receivers 20] [--seconds 10]

Each disturbance is measured between two quiet stretches of the same run: what changes by itself on a
shared machine changes there as well. Latency and loss are of the receivers that behave.
"""

import argparse
import os
import time
from collections.abc import Iterable, Iterator
from typing import Any

from bench.compare import say
from bench.load.control import LoadClient
from bench.servers import Place, Server, place, start

KINDS = ("stop_reading", "flood_nack", "flood_pli", "flood_rtcp")
GOOD, BAD = 0, 1

# Newcomers leave again when so many others have come: else the room would be twice as large, and its core as
# busy, at the end.
STAY = 5

Figures = dict[str, Any]


def _clients(server: Server, where: Place, count: int) -> list[LoadClient]:
    pin = ["taskset", "-c", "1"] if (os.cpu_count() or 1) > 1 else []
    prefix = [*where.prefix, *pin]
    return [LoadClient(server.kind, server.url, ip=where.ip, prefix=prefix, sample=1) for _ in range(count)]


def _stretch(client: LoadClient, seconds: float) -> Figures:
    client.reset()
    time.sleep(seconds)
    return client.stats(GOOD)


def _quiet(before: Figures, after: Figures) -> Figures:
    """Return the better of two quiet stretches' losses and the worse of their latencies."""
    return {
        "p50_ms": max(before["p50_ms"], after["p50_ms"]),
        "p99_ms": max(before["p99_ms"], after["p99_ms"]),
        "lost": max(before["lost"] / before["expected"], after["lost"] / after["expected"]),
    }


def bad_receivers(kinds: Iterable[str], receivers: int, seconds: float) -> Iterator[tuple[str, Figures]]:
    """Give quiet and disturbed figures of the others while one receiver is bad, each kind in turn."""
    with place() as where:
        server = start("sfu", where)
        sends, takes = _clients(server, where, 2)
        try:
            sends.publish()
            takes.subscribe(receivers, group=GOOD)
            time.sleep(2)
            before = _stretch(takes, seconds)
            for kind in kinds:
                say(f"{kind} ...")
                during = _beside(kind, server, where, takes, seconds)
                time.sleep(1)
                after = _stretch(takes, seconds)
                yield (
                    kind,
                    {
                        "quiet": _quiet(before, after),
                        "p50_ms": during["p50_ms"],
                        "p99_ms": during["p99_ms"],
                        "lost": during["lost"] / during["expected"],
                        "packets": during["packets"],
                        "before": before["packets"],
                    },
                )
                before = after
        finally:
            for client in (sends, takes):
                client.close()
            server.stop()


def _beside(kind: str, server: Server, where: Place, takes: LoadClient, seconds: float) -> Figures:
    """Return the figures of those who behave, beside one who does not."""
    (bad,) = _clients(server, where, 1)
    try:
        bad.subscribe(1, group=BAD)
        time.sleep(1)
        bad.misbehave(0, kind)
        time.sleep(1)
        return _stretch(takes, seconds)
    finally:
        bad.close()


def joins(receivers: int, seconds: float, *, busy: float = 0.5) -> Figures:
    """Return the others' latency while somebody joins every 200 ms into a room that uses half a core.

    A second later he leaves: the room stays as large as it was.
    """
    with place() as where:
        server = start("sfu", where)
        sends, takes, newcomers = _clients(server, where, 3)
        try:
            sends.publish()
            takes.subscribe(receivers, group=GOOD)
            time.sleep(2)
            publishers, share = 1, _core(server)
            # Several rooms' worth of packets in one, until the core is as busy as asked.
            while share < busy * 0.9 and publishers < 12:
                more = max(1, min(4, int(publishers * (busy / share - 1))))
                sends.publish(more)
                publishers += more
                takes.close()
                takes = _clients(server, where, 1)[0]
                takes.subscribe(receivers, feeds=publishers, group=GOOD)
                time.sleep(1)
                share = _core(server)
            before = _stretch(takes, seconds)
            takes.reset()
            newcomers.subscribe(int(seconds / 0.2), feeds=publishers, gap_s=0.14, group=BAD, stay=STAY)
            during = takes.stats(GOOD)
        finally:
            for client in (sends, takes, newcomers):
                client.close()
            server.stop()
    return {
        "core": share,
        "publishers": publishers,
        "before_p99_ms": before["p99_ms"],
        "p50_ms": during["p50_ms"],
        "p99_ms": during["p99_ms"],
        "added_p99_ms": during["p99_ms"] - before["p99_ms"],
        "longest_ms": during["longest_ms"],
        "lost": during["lost"] / during["expected"],
        "every_s": during["seconds"] / int(seconds / 0.2),
    }


def _core(server: Server, seconds: float = 2.0) -> float:
    before = server.usage().cpu_s
    time.sleep(seconds)
    return (server.usage().cpu_s - before) / seconds


def table(receivers: int, seconds: float, kinds: Iterable[str] = KINDS) -> Iterator[str]:
    """Return lines of what each kind of bad receiver does to the others."""
    yield f"| one receiver of {receivers} | others' latency p50 · p99, ms | quiet | lost | quiet |"
    yield "|---|---|---|---|---|"
    for kind, found in bad_receivers(kinds, receivers, seconds):
        quiet = found["quiet"]
        yield " ".join(
            [
                f"| {kind} | {found['p50_ms']:.2f} · {found['p99_ms']:.2f}",
                f"| {quiet['p50_ms']:.2f} · {quiet['p99_ms']:.2f}",
                f"| {found['lost']:.3%} | {quiet['lost']:.3%} |",
            ]
        )


def told(receivers: int, seconds: float) -> str:
    """Return what joins into a busy room did, as a sentence."""
    say("joins ...")
    found = joins(receivers, seconds)
    return (
        f"A join every {found['every_s'] * 1000:.0f} ms, and a second later a leave, in a room of "
        f"{receivers} receivers, the core {found['core']:.0%} busy: p99 {found['p99_ms']:.2f} ms against "
        f"{found['before_p99_ms']:.2f} before (added {found['added_p99_ms']:.2f}), "
        f"longest {found['longest_ms']:.1f} ms, lost {found['lost']:.3%}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--receivers", type=int, default=20)
    parser.add_argument("--busy-receivers", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--no-joins", action="store_true")
    options = parser.parse_args()
    if options.kinds:
        for line in table(options.receivers, options.seconds, options.kinds):
            print(line, flush=True)
    if not options.no_joins:
        print("\n" + told(options.busy_receivers, options.seconds))


if __name__ == "__main__":
    main()
