"""The server against others, and against itself before a change: ratios of interleaved runs.

    python -m bench.compare [--servers sfu pion janus] [--scenarios fan100 conf10 fan300] [--runs 3]
    python -m bench.compare --servers sfu sfu@HEAD~5 sfu:build/compiled --scenarios conf10

`fanN` is one publisher and N receivers, `confN` N who all publish and receive. One core serves, the
other loads. `sfu@REVISION` is another of ours, not compiled; `sfu:FOLDER` a tree that is there. µs are of
CPU, user and system, of the server's whole process tree, for each packet that it sent on and that arrived.
Identical runs differ by 10 to 25 % on a shared machine: compare ratios only.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.load.control import GAP_US, LoadClient, LoadError, engine
from bench.servers import ROOT, TREE, Missing, Place, Server, place, start

Result = dict[str, Any]

# Of a run, beside what is measured: start, joins of 300 receivers at 30 to 60 ms, settling.
_OVERHEAD_S = 6.0


def run(
    server: Server,
    where: Place,
    scenario: str,
    seconds: float,
    *,
    feedback: bool = True,
    gap_us: int = GAP_US,
) -> Result:
    """Measure one scenario on a server that runs; `gap_us`: between the packets of a frame."""
    kind, count = scenario.rstrip("0123456789"), int(scenario.lstrip("abcdefghijklmnopqrstuvwxyz"))
    publishers = count if kind == "conf" else 1
    feeds = publishers - 1 if kind == "conf" else 1
    pin = ["taskset", "-c", "1"] if (os.cpu_count() or 1) > 1 else []
    named: dict[str, Any] = {"ip": where.ip, "prefix": [*where.prefix, *pin], "feedback": feedback}
    empty = server.usage()
    with (
        LoadClient(server.kind, server.url, **named) as sends,
        LoadClient(server.kind, server.url, **named) as takes,
    ):
        ids = sends.publish(publishers, gap_us=gap_us)
        time.sleep(0.5)
        before = server.usage()
        joins = takes.subscribe(count, feeds=feeds, exclude=ids if kind == "conf" else None)
        time.sleep(2.0)  # the reports of the first second, the layers of the second
        after = server.usage()
        takes.reset()
        sends.reset()
        began, start_usage = time.monotonic(), server.usage()
        time.sleep(seconds)
        found, used = takes.stats(), server.usage().cpu_s - start_usage.cpu_s
        elapsed = time.monotonic() - began
        sent = sends.stats()
    first = sorted(join[2] for join in joins)
    return {
        "us_per_packet": used / elapsed * found["seconds"] / max(1, found["packets"]) * 1e6,
        "core": used / elapsed,
        "packets_per_s": found["packets"] / found["seconds"],
        "lost": found["lost"] / max(1, found["expected"]),
        "not_decrypted": found["not_decrypted"],
        "receivers": found["receivers"],
        "p50_ms": found["p50_ms"],
        "p99_ms": found["p99_ms"],
        "join_p50_ms": first[len(first) // 2],
        "join_p95_ms": first[int(len(first) * 0.95)],
        "kib_per_receiver": (after.rss_kib - before.rss_kib) / count,
        "rss_empty_mib": empty.rss_kib / 1024,
        "refused": sent["refused"],
    }


def kernel_us(where: Place, receivers: int, gap_us: int = 0) -> float:
    """Return µs of CPU a packet that `sendmmsg` with delivery costs by itself, in the same namespace.

    In one go, as nobody sends; or a packet to all each `gap_us`, read on the other core, as servers send.
    """
    code = (
        "import ctypes, sys; e = ctypes.CDLL(sys.argv[1]); e.load_kernel.restype = ctypes.c_double;"
        "ip, count, gap = sys.argv[2].encode(), int(sys.argv[3]), int(sys.argv[4]);"
        "print(sorted(e.load_kernel(ip, count, 1150, 300, gap) for _ in range(3))[1])"
    )
    command = [*where.prefix, sys.executable, "-c", code, engine(), where.ip, str(receivers), str(gap_us)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@contextlib.contextmanager
def trees(servers: list[str]) -> Iterator[dict[str, Path]]:
    """Return where the code of each of ours is: check out `sfu@REVISION`, and remove it afterwards."""
    found = {name: Path(name.removeprefix("sfu:")).resolve() for name in servers if name.startswith("sfu:")}
    made: list[Path] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for name in servers:
                if "@" in name:
                    path = Path(folder, name.split("@")[1].replace("/", "_"))
                    revision = name.split("@")[1]
                    command = ["git", "worktree", "add", "--detach", str(path), revision]
                    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
                    found[name] = path
                    made.append(path)
            yield found
        finally:
            for path in made:
                remove = ["git", "worktree", "remove", "--force", str(path)]
                subprocess.run(remove, check=False, cwd=ROOT, capture_output=True)


def measure(
    servers: list[str],
    scenarios: list[str],
    runs: int,
    seconds: float,
    say: Callable[[str], None],
    *,
    feedback: bool = True,
    gap_us: int = GAP_US,
) -> dict[str, dict[str, list[Result]]]:
    """Return scenario → server → its runs; what cannot be measured is told and left out."""
    found: dict[str, dict[str, list[Result]]] = {}
    plan = [(s, n, name) for s in scenarios for n in range(runs) for name in servers]
    left = sum(seconds + _OVERHEAD_S + int("".join(filter(str.isdigit, s))) * 0.07 for s, _, _ in plan)
    missing: set[str] = set()
    with trees(servers) as checked_out:
        for scenario, number, name in plan:
            expected = seconds + _OVERHEAD_S + int("".join(filter(str.isdigit, scenario))) * 0.07
            if name in missing:
                continue
            say(f"{scenario} {name} run {number + 1}/{runs}, about {left / 60:.0f} min left")
            left -= expected
            try:
                with place() as where:
                    kind = name.partition("@")[0].partition(":")[0]
                    server = start(kind, where, tree=checked_out.get(name, TREE))
                    try:
                        result = run(server, where, scenario, seconds, feedback=feedback, gap_us=gap_us)
                    finally:
                        server.stop()
            except Missing as error:
                say(f"{name} is left out: {error}")
                missing.add(name)
                continue
            except LoadError as error:
                say(f"{scenario} on {name} failed: {error}")
                continue
            cost, p99, lost = result["us_per_packet"], result["p99_ms"], result["lost"]
            say(f"  {cost:.1f} µs, p99 {p99:.2f} ms, {lost:.3%} lost")
            found.setdefault(scenario, {}).setdefault(name, []).append(result)
    return found


def median(results: list[Result], figure: str) -> float:
    """Return the median of a figure over runs."""
    return statistics.median(result[figure] for result in results)


def table(found: dict[str, dict[str, list[Result]]]) -> list[str]:
    """Return the lines of a Markdown table, a row for each scenario and server."""
    lines = [
        "| scenario | server | µs a packet | ours to it | latency p50 · p99, ms | lost "
        "| join p50 · p95, ms | KiB a receiver |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for scenario, servers in found.items():
        ours = median(servers["sfu"], "us_per_packet") if "sfu" in servers else None
        for name, results in servers.items():
            us = median(results, "us_per_packet")
            ratio = f"{ours / us:.2f}" if ours is not None and name != "sfu" else ""
            lines.append(
                f"| {scenario} | {name} | {us:.1f} | {ratio} | {median(results, 'p50_ms'):.2f} · "
                f"{median(results, 'p99_ms'):.2f} | {median(results, 'lost'):.3%} | "
                f"{median(results, 'join_p50_ms'):.0f} · {median(results, 'join_p95_ms'):.0f} | "
                f"{median(results, 'kib_per_receiver'):.0f} |"
            )
    return lines


def say(text: str) -> None:
    """Tell of progress, beside the results."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--servers", nargs="+", default=["sfu", "pion", "janus"])
    parser.add_argument("--scenarios", nargs="+", default=["fan100", "conf10", "fan300"])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument(
        "--no-feedback", action="store_true", help="receivers send no transport-wide feedback"
    )
    parser.add_argument(
        "--gap-us", type=int, default=GAP_US, help="between the packets of a frame; a browser's are 20 to 300"
    )
    parser.add_argument("--json", type=Path, help="write all runs there")
    options = parser.parse_args()
    found = measure(
        options.servers,
        options.scenarios,
        options.runs,
        options.seconds,
        say,
        feedback=not options.no_feedback,
        gap_us=options.gap_us,
    )
    print("\n".join(table(found)))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    if not found:
        sys.exit(1)


if __name__ == "__main__":
    main()
