"""What one participant may do to the others: bad receivers, and joins into a busy room.

    python -m bench.disturb [--receivers 20] [--pairs 16] [--seconds 1.5] [--servers sfu sfu:build/compiled]

A disturbance is switched on and off again many times in one run: each stretch with it has a quiet one beside
it, so what a shared machine does by itself is on both sides. Told is the middle of what the pairs say, and
the quarters around it. Latency and loss are of the receivers that behave.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.compare import say
from bench.load.control import LoadClient
from bench.servers import TREE, Place, Server, place, start

KINDS = ("stop_reading", "flood_nack", "flood_pli", "flood_rtcp")
GOOD, BAD = 0, 1

# Newcomers leave again when so many others have come: else the room would be twice as large, and its core as
# busy, at the end.
STAY = 5
JOIN_EVERY_S = 0.2

# What a change does at first is not looked at: full sockets run empty, those who left are forgotten.
SETTLES_S = 0.4

Figures = dict[str, Any]


def _clients(server: Server, where: Place, count: int, *, yields: bool = False) -> list[LoadClient]:
    """Start load clients on the second core; what `yields` is done there when nobody else has to work."""
    pin = ["taskset", "-c", "1"] if (os.cpu_count() or 1) > 1 else []
    prefix = [*where.prefix, *pin, *(["chrt", "--idle", "0"] if yields else [])]
    return [LoadClient(server.kind, server.url, ip=where.ip, prefix=prefix, sample=1) for _ in range(count)]


def _begin(name: str, where: Place) -> Server:
    """Start a server: `sfu`, `sfu:<a tree>`, `pion` or `janus`."""
    kind, _, tree = name.partition(":")
    return start(kind, where, tree=Path(tree).resolve() if tree else TREE)


def _stretch(client: LoadClient, seconds: float) -> Figures:
    client.reset()
    time.sleep(seconds)
    return client.stats(GOOD)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Stretches of one run, in pairs: quiet and disturbed."""

    quiet: list[Figures]
    disturbed: list[Figures]

    def quarters(self, name: str, change: Callable[[float, float], float]) -> tuple[float, float, float]:
        """Return the lower quarter, the middle and the upper quarter of a figure's changes."""
        before, during = ([found[name] for found in part] for part in (self.quiet, self.disturbed))
        changes = [change(a, b) for a, b in zip(before, during, strict=True)]
        low, middle, high = statistics.quantiles(changes, n=4) if len(changes) > 1 else changes * 3
        return low, middle, high

    def lost(self) -> tuple[float, float]:
        """Return what was lost of all, quiet and disturbed."""
        quiet, disturbed = (
            sum(found["lost"] for found in part) / sum(found["expected"] for found in part)
            for part in (self.quiet, self.disturbed)
        )
        return quiet, disturbed

    def middle(self, name: str) -> tuple[float, float]:
        """Return the median of a figure, quiet and disturbed."""
        quiet, disturbed = (
            statistics.median(found[name] for found in part) for part in (self.quiet, self.disturbed)
        )
        return quiet, disturbed


def in_pairs(count: int, quiet: Callable[[], Figures], disturbed: Callable[[], Figures]) -> Pairs:
    """Measure so many pairs; every other one the other way round."""
    found = Pairs([], [])
    for number in range(count):
        for part, measure in ((found.quiet, quiet), (found.disturbed, disturbed))[:: 1 - number % 2 * 2]:
            part.append(measure())
    return found


def bad_receivers(
    kinds: Iterable[str], receivers: int, pairs: int, seconds: float, server: str = "sfu"
) -> Iterator[tuple[str, Pairs]]:
    """Give the figures of the others while one receiver is bad and while he behaves, each kind in turn."""
    with place() as where:
        running = _begin(server, where)
        sends, takes, bad = _clients(running, where, 3)
        try:
            sends.publish()
            takes.subscribe(receivers, group=GOOD)
            bad.subscribe(1, group=BAD)
            time.sleep(2)

            def disturbed(kind: str) -> Figures:
                bad.misbehave(0, kind)
                time.sleep(SETTLES_S)
                try:
                    return _stretch(takes, seconds)
                finally:
                    bad.behave(0)

            def quiet() -> Figures:
                time.sleep(SETTLES_S)
                return _stretch(takes, seconds)

            for kind in kinds:
                say(f"{kind} ...")
                yield kind, in_pairs(pairs, quiet, partial(disturbed, kind))
        finally:
            for client in (sends, takes, bad):
                client.close()
            running.stop()


def joins(
    receivers: int, pairs: int, seconds: float, *, busy: float = 0.5, server: str = "sfu"
) -> tuple[Pairs, Figures]:
    """Return the others' latency while somebody joins every 200 ms into a room that uses half a core.

    A second later he leaves: the room stays as large as it was. With it: how busy the core was, and how many
    seconds lay between two joins.
    """
    with place() as where:
        running = _begin(server, where)
        sends, takes = _clients(running, where, 2)
        # The handshakes of newcomers take the time of who sends, who is late then by himself.
        (newcomers,) = _clients(running, where, 1, yields=True)
        try:
            sends.publish()
            takes.subscribe(receivers, group=GOOD)
            time.sleep(2)
            publishers, share = 1, _core(running)
            # Several rooms' worth of packets in one, until the core is as busy as asked.
            while share < busy * 0.9 and publishers < 12:
                more = max(1, min(4, int(publishers * (busy / share - 1))))
                sends.publish(more)
                publishers += more
                takes.close()
                takes = _clients(running, where, 1)[0]
                takes.subscribe(receivers, feeds=publishers, group=GOOD)
                time.sleep(1)
                share = _core(running)
            count = max(1, round(seconds / JOIN_EVERY_S))

            def disturbed() -> Figures:
                takes.reset()
                newcomers.subscribe(count, feeds=publishers, every_s=JOIN_EVERY_S, group=BAD, stay=STAY)
                return takes.stats(GOOD)

            def quiet() -> Figures:
                time.sleep(SETTLES_S)
                return _stretch(takes, seconds)

            found = in_pairs(pairs, quiet, disturbed)
        finally:
            for client in (sends, takes, newcomers):
                client.close()
            running.stop()
    lasted = sum(during["seconds"] for during in found.disturbed)
    return found, {"core": share, "publishers": publishers, "every_s": lasted / count / pairs}


def _core(server: Server, seconds: float = 2.0) -> float:
    before = server.usage().cpu_s
    time.sleep(seconds)
    return (server.usage().cpu_s - before) / seconds


def table(
    receivers: int, pairs: int, seconds: float, kinds: Iterable[str] = KINDS, server: str = "sfu"
) -> Iterator[str]:
    """Return lines of what each kind of bad receiver does to the others."""
    yield (
        f"| one receiver of {receivers + 1}, {pairs} pairs | others' latency p50 · p99, ms | quiet "
        "| p50 changes by | p99 changes by | lost | quiet |"
    )
    yield "|---|---|---|---|---|---|---|"
    for kind, found in bad_receivers(kinds, receivers, pairs, seconds, server):
        (quiet_p50, p50), (quiet_p99, p99) = found.middle("p50_ms"), found.middle("p99_ms")
        changes = [
            " / ".join(f"{part:+.1%}" for part in found.quarters(name, lambda a, b: b / a - 1))
            for name in ("p50_ms", "p99_ms")
        ]
        quiet_lost, lost = found.lost()
        yield (
            f"| {kind} | {p50:.2f} · {p99:.2f} | {quiet_p50:.2f} · {quiet_p99:.2f} "
            f"| {changes[0]} | {changes[1]} | {lost:.3%} | {quiet_lost:.3%} |"
        )


def told(receivers: int, pairs: int, seconds: float, server: str = "sfu") -> str:
    """Return what joins into a busy room did, as a sentence."""
    say("joins ...")
    found, room = joins(receivers, pairs, seconds, server=server)
    added = " / ".join(f"{part:+.2f}" for part in found.quarters("p99_ms", lambda a, b: b - a))
    quiet, disturbed = found.middle("p99_ms")
    return (
        f"A join every {room['every_s'] * 1000:.0f} ms, and a second later a leave, in a room of "
        f"{receivers} receivers, the core {room['core']:.0%} busy, {pairs} pairs of stretches: "
        f"p99 {disturbed:.2f} ms against {quiet:.2f} without (added {added}), longest "
        f"{max(during['longest_ms'] for during in found.disturbed):.1f} ms, lost {found.lost()[1]:.3%}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--receivers", type=int, default=20)
    parser.add_argument("--busy-receivers", type=int, default=50)
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--no-joins", action="store_true")
    parser.add_argument("--servers", nargs="+", default=["sfu"], help="sfu, sfu:<a tree>, pion or janus")
    options = parser.parse_args()
    for server in options.servers:
        print(f"{server}\n")
        if options.kinds:
            for line in table(options.receivers, options.pairs, options.seconds, options.kinds, server):
                print(line, flush=True)
        if not options.no_joins:
            print("\n" + told(options.busy_receivers, options.pairs, options.seconds, server), flush=True)


if __name__ == "__main__":
    main()
