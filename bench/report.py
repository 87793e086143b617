"""Everything in one go, into docs/performance.md: `make bench`.

    python -m bench.report [--quick]

Runs the comparison and the disturbances, prints what the bars say, writes a table and two plots with
date and machine. Needs root for the namespace, and Debian's packages for Pion and Janus; who lacks one
gets the rest.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

from bench import disturb
from bench.compare import Result, kernel_us, measure, median, say, table
from bench.servers import ROOT, place

PAGE = ROOT / "docs" / "performance.md"
IMAGES = ROOT / "docs" / "images"
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"

Found = dict[str, dict[str, list[Result]]]

# Between two packets of a publisher, his voice and his picture, µs.
PACE_US = 6000

# Stretches with and without a bad receiver: more tell less noise, and take 25 s each.
PAIRS = 12

# scenario, figure, server it is compared with, bar
RATIOS = [
    ("fan100", "pion", 0.70),
    ("fan100", "janus", 0.40),
    ("conf10", "pion", 0.80),
    ("conf10", "janus", 0.60),
    ("fan300", "pion", 0.80),
]
LIMITS = [
    ("fan100", "p99_ms", 1.0, "added latency p99, ms"),
    ("conf10", "p99_ms", 0.25, "added latency p99, ms"),
    ("fan100", "kib_per_receiver", 100.0, "memory a receiver, KiB"),
]


def bars(found: Found, kernel: float, paced: float) -> list[str]:
    """Return a table of what was asked and what was measured."""
    rows: list[tuple[str, float, float]] = []
    us = {s: {n: median(r, "us_per_packet") for n, r in servers.items()} for s, servers in found.items()}
    for scenario, other, bar in RATIOS:
        if "sfu" in us.get(scenario, {}) and other in us[scenario]:
            rows.append(
                (f"CPU a packet, {scenario}, of {other}'s", us[scenario]["sfu"] / us[scenario][other], bar)
            )
    if "sfu" in us.get("fan300", {}):
        alone = "CPU a packet, fan300, of the kernel's sendmmsg alone"
        rows.append((alone, us["fan300"]["sfu"] / kernel, 1.8))
        rows.append((f"{alone}, at the same pace", us["fan300"]["sfu"] / paced, 1.8))
    if "sfu" in us.get("fan500", {}) and "sfu" in us.get("fan100", {}):
        rows.append(("CPU a packet, fan500, of fan100's", us["fan500"]["sfu"] / us["fan100"]["sfu"], 1.15))
    for scenario, figure, bar, meaning in LIMITS:
        if "sfu" in found.get(scenario, {}):
            rows.append((f"{meaning}, {scenario}", median(found[scenario]["sfu"], figure), bar))
    lines = ["| | measured | asked | |", "|---|---|---|---|"]
    return lines + [
        f"| {n} | {v:.2f} | {bar:.2f} | {'met' if v <= bar else 'missed'} |" for n, v, bar in rows
    ]


def plot(found: Found) -> None:
    """Draw CPU a packet and latency of every scenario and server."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figures = [("us_per_packet", "µs of CPU a packet", False), ("p99_ms", "added latency, p99 ms", True)]
    names = sorted({name for servers in found.values() for name in servers}, key=lambda n: (n != "sfu", n))
    drawing, axes = plt.subplots(1, 2, figsize=(11, 4.2))
    for axis, (figure, label, is_log) in zip(axes, figures, strict=True):
        for index, name in enumerate(names):
            points = [
                (place + (index - len(names) / 2 + 0.5) * 0.8 / len(names), median(servers[name], figure))
                for place, servers in enumerate(found.values())
                if name in servers
            ]
            axis.bar([x for x, _ in points], [y for _, y in points], 0.8 / len(names), label=name)
        axis.set_xticks(range(len(found)), list(found))
        axis.set_ylabel(label)
        if is_log:
            axis.set_yscale("log")
            for which in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
                which(lambda value, _: f"{value:g}")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    drawing.tight_layout()
    IMAGES.mkdir(exist_ok=True)
    drawing.savefig(IMAGES / "bench.png", dpi=110)


def machine() -> str:
    """Return what this was measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    return (
        f"{os.cpu_count()} cores of {model}, Linux {platform.release()}, Python {platform.python_version()}"
    )


def write(text: str) -> None:
    """Put the results between the marks in docs/performance.md; at its end if there are none."""
    page = PAGE.read_text()
    if BEGIN not in page:
        page += f"\n{BEGIN}\n{END}\n"
    before, rest = page.split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="one run of each, no disturbances; writes nothing"
    )
    options = parser.parse_args()
    began = time.monotonic()
    runs = 1 if options.quick else 3
    found = measure(["sfu", "pion"], ["fan10"], 1, 5.0, say)
    found |= measure(["sfu", "pion"], ["conf10", "fan100"], runs, 5.0, say)
    found["fan300"], kernel, paced = beside_the_kernel(runs)
    for scenario, servers in measure(["janus"], ["conf10", "fan100"], 1, 5.0, say).items():
        found.setdefault(scenario, {}).update(servers)
    found |= measure(["sfu"], ["fan500"], 1, 5.0, say)
    today = datetime.date.today().isoformat()
    head = (
        f"{today}, {machine()}; the kernel's `sendmmsg` with delivery: {kernel:.2f} µs in one go, "
        f"{paced:.2f} at the pace of a publisher and to readers on the other core."
    )
    told = "`fanN`: one publisher and N receivers; `confN`: N of which each takes all others."
    parts = [head, "", told, "", *bars(found, kernel, paced), "", *table(found)]
    print("\n".join(parts))
    if options.quick:
        return
    plot(found)
    parts += ["", "![CPU and latency](images/bench.png)", ""]
    # What was measured is kept, whatever becomes of the rest.
    write("\n".join([*parts, "Not measured: what bad receivers and joins do to the others."]))
    write("\n".join([*parts, *disturbances()]))
    results: dict[str, Any] = {
        "found": found,
        "kernel_us": kernel,
        "paced_us": paced,
        "seconds": time.monotonic() - began,
    }
    say(f"took {results['seconds'] / 60:.1f} min")
    Path("bench-results.json").write_text(json.dumps(results, indent=1))


def beside_the_kernel(runs: int) -> tuple[dict[str, list[Result]], float, float]:
    """Measure one to 300, and what the kernel takes for them in one go and paced, in turn.

    A host that gives its cores to others for a minute slows down all of them.
    """
    found: dict[str, list[Result]] = {}
    kernel, paced = [], []
    for _ in range(runs):
        for name, results in measure(["sfu", "pion"], ["fan300"], 1, 5.0, say).get("fan300", {}).items():
            found.setdefault(name, []).extend(results)
        with place() as where:
            kernel.append(kernel_us(where, 300))
            paced.append(kernel_us(where, 300, PACE_US))
    return found, statistics.median(kernel), statistics.median(paced)


def disturbances() -> list[str]:
    """Return what bad receivers and joins do to the others."""
    return [*disturb.table(20, PAIRS, 1.5), "", disturb.told(50, PAIRS, 1.5)]


if __name__ == "__main__":
    main()
