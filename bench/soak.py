"""A conference for an hour: memory, descriptors and tasks stay flat, the loop never stalls.

    python -m bench.soak [--minutes 60] [--people 10] [--churn 30]

Ten synthetic people publish and receive; every half minute one leaves and another comes. Each minute a
line is printed; at the end the first quarter is compared with the last. Exit code 1 if something grew,
was lost, or stalled longer than 50 ms.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.load.control import LoadClient
from bench.servers import Place, Server, place, start

MAX_STALL_S = 0.05
# Of memory, between the first quarter and the last: pools and caches settle in the first minutes.
MAX_GROWTH = 1.05

_FETCH = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())"


def metrics(server: Server, where: Place) -> dict[str, float]:
    """Return the server's own figures, by name; labels are left in the name."""
    url = server.url.replace("ws://", "http://").replace("/ws", "/metrics")
    command = [*where.prefix, sys.executable, "-c", _FETCH, url]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def sample(server: Server, where: Place) -> dict[str, Any]:
    """Return what may grow."""
    told = metrics(server, where)
    descriptors = sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in server.pids())
    return {
        "rss_kib": server.usage().rss_kib,
        "descriptors": descriptors,
        "tasks": told["sfu_tasks"],
        "peers": told["sfu_peers"],
        "worst_stall_s": told["sfu_worst_stall_seconds"],
        # Of that: its own work, and waiting for a core; the rest is the kernel's or the host's.
        "computed_s": told["sfu_worst_stall_computed_seconds"],
        "waited_s": told["sfu_worst_stall_waited_seconds"],
        "cpu_s": server.usage().cpu_s,
    }


def soak(
    minutes: float, people: int, churn_s: float, every_s: float = 60.0
) -> tuple[list[dict[str, Any]], Any]:
    """Return the samples of a conference, and what its receivers counted."""
    samples = []
    with place() as where:
        server = start("sfu", where)
        pin = ["taskset", "-c", "1"] if (os.cpu_count() or 1) > 1 else []
        named: dict[str, Any] = {"ip": where.ip, "prefix": [*where.prefix, *pin]}
        sends, takes = (LoadClient(server.kind, server.url, **named) for _ in range(2))
        guest: LoadClient | None = None
        try:
            ids = sends.publish(people)
            takes.subscribe(people, feeds=people - 1, exclude=ids)
            time.sleep(3)
            takes.reset()
            began = time.monotonic()
            next_sample, next_guest = began + every_s, began + churn_s
            while (now := time.monotonic()) < began + minutes * 60:
                if now >= next_guest:
                    next_guest += churn_s
                    if guest is not None:
                        guest.close()
                    guest = LoadClient(server.kind, server.url, **named)
                    guest.subscribe(1, feeds=people)
                if now >= next_sample:
                    next_sample += every_s
                    samples.append(sample(server, where))
                    print(f"{(now - began) / 60:5.1f} min  {json.dumps(samples[-1])}", flush=True)
                time.sleep(min(0.2, every_s / 10))
            return samples, takes.stats()
        finally:
            for client in (sends, takes, guest):
                if client is not None:
                    client.close()
            server.stop()


def verdict(samples: list[dict[str, Any]], counted: dict[str, Any]) -> list[str]:
    """Return what is wrong; nothing if all is well."""
    wrong = []
    if not samples:
        return ["it was too short for a single sample"]
    quarter = max(1, len(samples) // 4)
    for name in ("rss_kib", "descriptors", "tasks"):
        first, last = (
            statistics.median(s[name] for s in part) for part in (samples[:quarter], samples[-quarter:])
        )
        if last > first * MAX_GROWTH + 5:
            wrong.append(f"{name} grew from {first:.0f} to {last:.0f}")
    worst = max(samples, key=lambda s: s["worst_stall_s"])
    if worst["worst_stall_s"] > MAX_STALL_S:
        late, computed, waited = (worst[name] * 1000 for name in ("worst_stall_s", "computed_s", "waited_s"))
        parts = f"{computed:.0f} ms of it computing, {waited:.0f} ms waiting for a core"
        wrong.append(f"the loop stalled for {late:.0f} ms, {parts}")
    if counted["lost"] > counted["expected"] * 1e-4:
        wrong.append(f"{counted['lost']} of {counted['expected']} packets were lost")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--people", type=int, default=10)
    parser.add_argument("--churn", type=float, default=30, help="seconds between guests")
    options = parser.parse_args()
    samples, counted = soak(options.minutes, options.people, options.churn)
    wrong = verdict(samples, counted)
    print(json.dumps(counted))
    print("\n".join(wrong) or "flat: nothing grew, nothing stalled, nothing was lost")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
