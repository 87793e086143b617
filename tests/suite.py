"""The whole suite, in rows beside each other: python -m tests.suite [--coverage]

Most tests wait, for pages and for time to pass; others compute. What computes gives way to what waits, and
there is one browser at a time: two would leave no time to the servers that they talk to. What loads
servers runs when nothing waits any more, and what measures when nothing else runs at all. The log of each row
is printed when the row has ended. With --coverage all but those two are watched, which takes twice as long.
"""

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Of tests/integration: what computes.
COMPUTES = {
    "test_compiled",
    "test_compose",
    "test_openapi",
    "test_recordings_command",
    "test_service_by_search",
    "test_simulation",
}
# Of tests/integration: what comes after the pages, in the same row, so that both rows end at about one time.
AFTER_PAGES = {"test_processes", "test_recording_faults"}

# What loads servers, in this order: what computes may still be at its end when the first begins.
LOADS = ("test_load_test", "test_bench")
# What measures, and needs the machine for itself.
MEASURES = {"test_join_speed", "test_links"}

# Of files whose other tests wait, those that measure: they are run with the others that do.
APART = {
    "tests/e2e/test_player_in_chromium.py::test_two_pictures_and_three_voices_play_in_step": "pages",
    "tests/integration/test_demo.py::test_the_demo_runs_and_both_ends_decode_every_second": "servers",
}

# What computes is run with this niceness.
GIVES_WAY = 10


def rows() -> dict[str, list[str]]:
    """Return the tests of each row: pages begin with those of tests/e2e, servers are of tests/integration."""
    found: dict[str, list[str]] = {
        "pages": [],
        "servers": [],
        "unit": ["tests/unit"],
        "computes": [],
        "loads": [],
        "measures": [],
    }
    of = dict.fromkeys(MEASURES, "measures") | dict.fromkeys(COMPUTES, "computes")
    of |= dict.fromkeys(LOADS, "loads")
    of |= dict.fromkeys(AFTER_PAGES, "pages")
    for folder, waits in (("e2e", "pages"), ("integration", "servers")):
        for path in sorted(ROOT.glob(f"tests/{folder}/test_*.py")):
            found[of.get(path.stem, waits)].append(str(path.relative_to(ROOT)))
    found["loads"].sort(key=lambda path: LOADS.index(Path(path).stem))
    for test, row in APART.items():
        found["measures"].append(test)
        found[row] += ["--deselect", test]
    return found


async def run(name: str, tests: list[str], *, measured: bool, nice: int = 0) -> bool:
    """Run a row; tell whether everything in it passed."""
    began = time.monotonic()
    program = ["-m", "coverage", "run", "-p"] if measured else []
    command = [sys.executable, *program, "-m", "pytest", "-p", "no:cacheprovider", *tests]
    # Hundreds of servers are started: none of them compiles what the one before has compiled.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.NamedTemporaryFile(prefix=f"row-{name}-", suffix=".log") as log:
        print(f"row {name} begins; how far it is: {log.name}", flush=True)
        process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, env=environment, stdout=log, stderr=log, preexec_fn=lambda: os.nice(nice)
        )
        code = await process.wait()
        log.seek(0)
        print(log.read().decode(errors="replace"), end="")
    print(f"row {name}: exit code {code}, {time.monotonic() - began:.0f} s\n", flush=True)
    return code == 0


async def main(*, measured: bool) -> int:
    """Run everything; return the exit code."""
    began, found = time.monotonic(), rows()

    async def wait_and_load() -> bool:
        waits = (run(name, found[name], measured=measured) for name in ("pages", "servers"))
        return all(await asyncio.gather(*waits)) & await run("loads", found["loads"], measured=False)

    beside = (run(name, found[name], measured=measured, nice=GIVES_WAY) for name in ("unit", "computes"))
    passed = all(await asyncio.gather(wait_and_load(), *beside))
    passed &= await run("measures", found["measures"], measured=False)
    print(f"the suite took {time.monotonic() - began:.0f} s", flush=True)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(measured="--coverage" in sys.argv[1:])))
