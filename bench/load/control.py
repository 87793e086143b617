"""A load process as an object: what tests and benchmarks use.

with LoadClient("sfu", url) as publishers, LoadClient("sfu", url) as receivers:
    publishers.publish()
    receivers.subscribe(count=10)
    receivers.reset()
    ...
    print(receivers.stats()["lost"])
"""

import contextlib
import functools
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

HERE = Path(__file__).parent

# Between the packets of a frame, µs: as a publisher paces them whose line is just wide enough.
GAP_US = 3500


class LoadError(RuntimeError):
    """The load process could not do what it was asked."""


@functools.cache
def engine() -> str:
    """Return the path of the compiled engine; it is compiled once for each version of its source."""
    source = HERE / "load.c"
    name = f"sfu-load-{hashlib.sha256(source.read_bytes()).hexdigest()[:16]}.so"
    target = Path(tempfile.gettempdir()) / name
    if not target.exists():
        made = target.with_suffix(f".{os.getpid()}")
        command = ["gcc", "-O2", "-shared", "-fPIC", "-o", str(made), str(source), "-lsrtp2", "-lpthread"]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise LoadError("gcc is missing: apt-get install gcc libc6-dev libsrtp2-dev") from error
        except subprocess.CalledProcessError as error:
            raise LoadError(f"the load engine cannot be compiled (libsrtp2-dev?): {error.stderr}") from error
        made.rename(target)
    return str(target)


class LoadClient:
    """One process of publishers or receivers."""

    def __init__(
        self,
        server: str,
        url: str,
        *,
        ip: str = "127.0.0.1",
        prefix: list[str] | None = None,
        feedback: bool = True,
        srtp: str = "gcm",
        sample: int = 8,
    ) -> None:
        self._join = {"server": server, "url": url}
        root = str(HERE.parent.parent)
        environment = os.environ | {
            "LOAD_ENGINE": engine(),
            "LOAD_IP": ip,
            "LOAD_FEEDBACK": str(int(feedback)),
            "LOAD_SRTP": srtp,
            "LOAD_SAMPLE": str(sample),
            "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")])),
        }
        self._process = subprocess.Popen(
            [*(prefix or []), sys.executable, "-m", "bench.load.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if not os.environ.get("LOAD_DEBUG") else None,
            text=True,
            env=environment,
            cwd=root,
        )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process, and with it every participant."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _do(self, command: str, **named: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"command": command, **named}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        answer: dict[str, Any] = (
            json.loads(line) if line else {"ok": False, "error": "the load process ended"}
        )
        if not answer.pop("ok"):
            raise LoadError(f"{command}: {answer['error']}")
        return answer

    def publish(self, count: int = 1, *, mbit: float = 1.0, gap_us: int = GAP_US) -> list[Any]:
        """Let so many publish a voice and a picture of so many Mbit/s; return their ids."""
        ids: list[Any] = self._do("publish", count=count, mbit=mbit, gap_us=gap_us, **self._join)["ids"]
        return ids

    def subscribe(
        self,
        count: int = 1,
        *,
        feeds: int = 1,
        exclude: list[Any] | None = None,
        every_s: float = 0.0,
        group: int = 0,
        stay: int | None = None,
    ) -> list[list[float]]:
        """Let so many receive `feeds` participants; `exclude[n]` is not received by the nth.

        `every_s`: one comes so long after the one before, if he was quick enough.
        `stay`: who came first leaves when more than so many are there, the rest at the end; None: all stay.

        Returns for each the ms from the start until its socket, its keys, its first packet.
        """
        named = {
            "count": count,
            "feeds": feeds,
            "exclude": exclude,
            "every_s": every_s,
            "group": group,
            "stay": stay,
        }
        joins: list[list[float]] = self._do("subscribe", **named, **self._join)["joins_ms"]
        return joins

    def reset(self) -> None:
        """Count from now on."""
        self._do("reset")

    def stats(self, group: int = 0) -> dict[str, Any]:
        """Return packets, lost, p50_ms … longest_ms, seconds of a group of receivers; sent of publishers."""
        return self._do("stats", group=group)

    def misbehave(self, receiver: int, kind: str, *, per_s: int = 2000) -> None:
        """Let a receiver be bad: `stop_reading`, `flood_nack`, `flood_pli` or `flood_rtcp`."""
        self._do("misbehave", receiver=receiver, kind=kind, per_s=per_s)

    def behave(self, receiver: int) -> None:
        """Let a receiver who was bad be as the others again."""
        self._do("behave", receiver=receiver)

    def set_group(self, receiver: int, group: int) -> None:
        """Count a receiver elsewhere (0 to 3)."""
        self._do("set_group", receiver=receiver, group=group)
