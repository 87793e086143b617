"""`sfu demo`: one headless participant calls another, through a server, for real.

The server is a process of its own on its embedded defaults; the two speak the WebSocket
protocol, send pictures with a counter and a tone, decode what the other sent, and count.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp
import av
from av import AudioFrame, VideoFrame
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from sfu.bot.client import Client
from sfu.bot.media import MediaConnection
from sfu.bot.patterns import FRAMES_PER_S, CounterVideo, Tone, loudest_frequency, read_number
from sfu.recorder import evidence

START_TIMEOUT_S = 20.0
FIRST_FRAME_TIMEOUT_S = 10.0
SEAL_TIMEOUT_S = 20.0

# Frequencies that Opus keeps apart with ease.
TONES_HZ = {"ada": 440.0, "bob": 660.0}
TONE_TOLERANCE_HZ = 15.0

# 50 frames of 20 ms: a second of audio tells its frequency to the hertz.
_KEPT_AUDIO_FRAMES = 50


class DemoFailed(Exception):
    """The demo could not be run to its end; the message says where it stopped."""


class DemoServer:
    """`sfu serve --dev` in a process of its own, on free ports."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, log: asyncio.Task[list[str]]) -> None:
        self._process, self.url, self._log = process, url, log

    @classmethod
    async def start(cls, recordings: Path) -> Self:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SFU_")}
        environment |= {"SFU_HTTP__PORT": "0", "SFU_MEDIA__UDP_PORT": "0", "SFU_MEDIA__TCP_PORT": "0"}
        environment |= {"SFU_RECORDER__PATH": str(recordings), "SFU_RECORDER__MODE": "always"}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "sfu", "serve", "--dev", stderr=asyncio.subprocess.PIPE, env=environment
        )
        assert process.stderr is not None
        said = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_TIMEOUT_S):
                while line := (await process.stderr.readline()).decode(errors="replace"):
                    said.append(line.rstrip())
                    if '"event": "ready"' in line:
                        reader = asyncio.create_task(cls._drain(process.stderr))
                        return cls(process, json.loads(line)["url"], reader)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        raise DemoFailed(f"the server did not start: {' | '.join(said[-3:])}")

    @staticmethod
    async def _drain(stderr: asyncio.StreamReader) -> list[str]:
        """Keep the pipe empty; return the last lines."""
        said: list[str] = []
        while line := (await stderr.readline()).decode(errors="replace"):
            said = [*said[-20:], line.rstrip()]
        return said

    async def metrics(self) -> dict[str, float]:
        async with aiohttp.ClientSession() as http, http.get(self.url + "/metrics") as response:
            text = await response.text()
        lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}

    async def token(self, name: str) -> str:
        async with aiohttp.ClientSession() as http:
            response = await http.post(self.url + "/dev/token", json={"name": name})
            return str((await response.json())["token"])

    async def stop(self) -> int:
        """Ask it to stop; return its exit code."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(15):
                return await self._process.wait()
        except TimeoutError:
            self._process.kill()
            return await self._process.wait()
        finally:
            await self._log


@dataclass
class Seen:
    """What one end decoded of the other."""

    name: str
    started_at: float = 0.0
    first_frame_at: float | None = None
    numbers: list[int] = field(default_factory=list)
    unreadable: int = 0
    size: str = ""
    by_second: Counter[int] = field(default_factory=Counter)
    audio_frames: int = 0
    audio: list[AudioFrame] = field(default_factory=list)
    first: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, _mid: str, frame: Any) -> None:
        """Count one decoded frame."""
        if isinstance(frame, VideoFrame):
            now = time.monotonic()
            if self.first_frame_at is None:
                self.first_frame_at = now
                self.first.set()
            number = read_number(frame)
            if number is None:
                self.unreadable += 1
            else:
                self.numbers.append(number)
            self.size = f"{frame.width}x{frame.height}"
            self.by_second[int(now - self.started_at)] += 1
        elif isinstance(frame, AudioFrame):
            self.audio_frames += 1
            self.audio = [*self.audio[1 - _KEPT_AUDIO_FRAMES :], frame]

    @property
    def gaps(self) -> int:
        """Numbers that are missing between the first and the last picture."""
        if not self.numbers:
            return 0
        return self.numbers[-1] - self.numbers[0] + 1 - len(set(self.numbers))


async def _loss(media: MediaConnection) -> tuple[int, int]:
    """Return (packets lost, packets received) as aiortc counted them."""
    lost = received = 0
    for stats in (await media.connection.getStats()).values():
        if stats.type == "inbound-rtp":
            lost += stats.packetsLost
            received += stats.packetsReceived
    return lost, received


@dataclass
class End:
    """One participant of the demo."""

    name: str
    client: Client
    media: MediaConnection
    seen: Seen
    video: CounterVideo

    @classmethod
    def make(cls, name: str, client: Client) -> Self:
        seen = Seen(name)
        return cls(name, client, MediaConnection(client, seen.take), seen, CounterVideo())

    async def join(self, call_id: str) -> None:
        await self.media.join({"call_id": call_id}, [Tone(TONES_HZ[self.name]), self.video])
        await self.media.connected()


async def _talk(ada: End, bob: End, server: DemoServer, seconds: int, told: Any) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    told("ringing")
    asked_at = loop.time()
    call = (await ada.client.request("call.initiate", {"callee_ids": ["bob"], "call_type": "video"}))["call"]
    incoming = await bob.client.wait_for("call.incoming")
    await ada.client.wait_for("call.ringing")
    # Both connect while it rings, so that nothing is left to do when the answer comes.
    await asyncio.gather(ada.join(call["id"]), bob.join(call["id"]))
    before = await server.metrics()
    answered_at = time.monotonic()
    ada.seen.started_at = bob.seen.started_at = answered_at
    await bob.client.request("call.answer", {"call_id": call["id"]})
    await ada.client.wait_for("call.answered")
    async with asyncio.timeout(FIRST_FRAME_TIMEOUT_S):
        await asyncio.gather(ada.seen.first.wait(), bob.seen.first.wait())
    for second in range(seconds):
        decoded = f"{len(ada.seen.numbers)} and {len(bob.seen.numbers)} frames decoded"
        told(f"talking {second + 1}/{seconds} s, {decoded}")
        await asyncio.sleep(1)
    after = await server.metrics()
    losses = await asyncio.gather(_loss(ada.media), _loss(bob.media))
    told("hanging up")
    await ada.client.request("call.end", {"call_id": call["id"]})
    endings = [(await end.client.wait_for("call.ended"))["data"]["end_reason"] for end in (ada, bob)]
    told("sealing the recording")
    recording_id = await _sealed(ada.client)
    forwarded = after["sfu_packets_forwarded_total"] - before["sfu_packets_forwarded_total"]
    cpu_s = after["process_cpu_seconds_total"] - before["process_cpu_seconds_total"]
    return {
        "ring_ms": round((incoming["at"] - asked_at) * 1000, 1),
        "packets_forwarded": int(forwarded),
        "cpu_us_per_packet": round(cpu_s / forwarded * 1e6, 1) if forwarded else None,
        "server_cpu_percent": round(cpu_s / (time.monotonic() - answered_at) * 100, 1),
        "end_reasons": endings,
        "recording_id": recording_id,
        "ends": [
            _end_report(end, other, answered_at, loss, seconds)
            for end, other, loss in ((ada, bob, losses[0]), (bob, ada, losses[1]))
        ],
    }


async def _sealed(client: Client) -> str:
    """Wait until the recording is sealed; return its id."""
    async with asyncio.timeout(SEAL_TIMEOUT_S):
        while True:
            told = (await client.wait_for("call.recording"))["data"]
            if told["state"] == "failed":
                raise DemoFailed(f"the recording failed: {told['recording'].get('error')}")
            if told["state"] == "sealed":
                return str(told["recording"]["id"])


def _recorded(folder: Path, public_key: Path) -> dict[str, Any]:
    """Check a recording, and decode what is in its pictures."""
    verdict = evidence.verify(folder, evidence.public_key(public_key))
    files = []
    for path in sorted(folder.glob("*.mk?")):
        with av.open(str(path)) as container:
            frames = list(container.decode(video=0)) if container.streams.video else []
        numbers = [number for frame in frames if (number := read_number(frame)) is not None]
        entry: dict[str, Any] = {"file": str(path), "bytes": path.stat().st_size, "pictures": len(numbers)}
        if numbers:
            holes = numbers[-1] - numbers[0] + 1 - len(set(numbers))
            entry |= {"first": numbers[0], "last": numbers[-1], "holes": holes}
        files.append(entry)
    return {"folder": str(folder), "files": files, "problems": [str(problem) for problem in verdict.problems]}


def _end_report(
    end: End, other: End, answered_at: float, loss: tuple[int, int], seconds: int
) -> dict[str, Any]:
    seen = end.seen
    first = seen.first_frame_at
    frequency = loudest_frequency(seen.audio)
    by_second = [seen.by_second[second] for second in range(seconds)]
    return {
        "name": end.name,
        "sees": other.name,
        "answer_to_first_frame_ms": round((first - answered_at) * 1000, 1) if first is not None else None,
        "frames_decoded": len(seen.numbers),
        "frames_per_second": by_second,
        "frames_unreadable": seen.unreadable,
        "counter_gaps": seen.gaps,
        "picture": seen.size,
        "audio_frames_decoded": seen.audio_frames,
        "tone_hz": round(frequency, 1),
        "tone_expected_hz": TONES_HZ[other.name],
        "packets_lost": loss[0],
        "packets_received": loss[1],
    }


def problems(report: dict[str, Any], seconds: int) -> list[str]:
    """Return what was not seen to be right, in words; empty when all was."""
    found = []
    if report["end_reasons"] != ["completed", "completed"]:
        found.append(f"the call ended with {report['end_reasons']}")
    if not report["packets_forwarded"]:
        found.append("the server forwarded nothing")
    for end in report["ends"]:
        who = end["name"]
        if any(count == 0 for count in end["frames_per_second"]):
            found.append(f"{who} had a second without a picture: {end['frames_per_second']}")
        if end["frames_decoded"] < seconds * FRAMES_PER_S * 0.9 - FRAMES_PER_S:
            found.append(f"{who} decoded only {end['frames_decoded']} frames")
        if end["counter_gaps"] or end["frames_unreadable"]:
            found.append(
                f"{who} missed {end['counter_gaps']} frames, could not read {end['frames_unreadable']}"
            )
        if abs(end["tone_hz"] - end["tone_expected_hz"]) > TONE_TOLERANCE_HZ:
            found.append(f"{who} heard {end['tone_hz']} Hz instead of {end['tone_expected_hz']} Hz")
        if end["packets_lost"] > 0:
            found.append(f"{who} lost {end['packets_lost']} packets")
    found += _recording_problems(report["recording"], seconds)
    if report["server_exit_code"] != 0:
        found.append(f"the server exited with {report['server_exit_code']}")
    return found


def _recording_problems(recording: dict[str, Any], seconds: int) -> list[str]:
    found = [f"recording: {problem}" for problem in recording["problems"]]
    pictures = [file for file in recording["files"] if file["pictures"]]
    if len(pictures) != len(TONES_HZ) or len(recording["files"]) != 2 * len(TONES_HZ):
        found.append(f"the recording has {len(recording['files'])} files, {len(pictures)} with pictures")
    for file in pictures:
        if file["holes"]:
            found.append(f"{file['file']}: {file['holes']} pictures are missing")
        if file["pictures"] < seconds * FRAMES_PER_S * 0.9 - FRAMES_PER_S:
            found.append(f"{file['file']}: only {file['pictures']} pictures")
    return found


async def _run(seconds: int, recordings: Path, told: Any) -> dict[str, Any]:
    told("starting the server")
    server = await DemoServer.start(recordings)
    try:
        url = server.url.replace("http", "ws", 1) + "/ws"
        async with (
            Client(url, await server.token("Ada")) as ada_client,
            Client(url, await server.token("Bob")) as bob_client,
        ):
            ada, bob = End.make("ada", ada_client), End.make("bob", bob_client)
            try:
                report = await _talk(ada, bob, server, seconds, told)
            finally:
                await asyncio.gather(ada.media.close(), bob.media.close())
    finally:
        exit_code = await server.stop()
    report["server_exit_code"] = exit_code
    told("decoding the recording")
    folder = recordings / "recordings" / report.pop("recording_id")
    report["recording"] = await asyncio.to_thread(_recorded, folder, recordings / "signing.pub")
    report["problems"] = problems(report, seconds)
    report["ok"] = not report["problems"]
    return report


def _print(report: dict[str, Any], console: Console) -> None:
    table = Table(title="A call of two, through the server", title_justify="left")
    for heading in ("", "ada sees bob", "bob sees ada"):
        table.add_column(heading)
    ends = report["ends"]
    rows = (
        ("answer to first frame", "answer_to_first_frame_ms", " ms"),
        ("frames decoded", "frames_decoded", ""),
        ("frames each second", "frames_per_second", ""),
        ("counter gaps", "counter_gaps", ""),
        ("picture", "picture", ""),
        ("audio frames decoded", "audio_frames_decoded", ""),
        ("tone heard", "tone_hz", " Hz"),
        ("packets lost", "packets_lost", ""),
    )
    for title, key, unit in rows:
        values = [end[key] for end in ends]
        table.add_row(
            title, *(f"{' '.join(map(str, v)) if isinstance(v, list) else v}{unit}" for v in values)
        )
    console.print(table)
    console.print(
        f"rang after {report['ring_ms']} ms · {report['packets_forwarded']} packets forwarded · "
        f"{report['cpu_us_per_packet']} µs of CPU each ({report['server_cpu_percent']} % of a core) · "
        f"ended: {report['end_reasons'][0]}"
    )
    recording = report["recording"]
    console.print(f"recorded, signed and checked: {recording['folder']}")
    for file in recording["files"]:
        pictures = f"pictures {file['first']} to {file['last']}, " if file["pictures"] else ""
        console.print(f"  {Path(file['file']).name}: {pictures}{file['bytes']} bytes", highlight=False)
    console.print("[bold green]all right[/]" if report["ok"] else "[bold red]not right[/]")
    for problem in report["problems"]:
        console.print(f"  {problem}")


def run(seconds: int, *, as_json: bool, recordings: Path | None = None) -> int:
    """Run the demo, print its report and return the exit code: 0 only if all was right.

    The recording is left in a folder; without one, in a fresh one of the system's temporary folder.
    """
    kept = (recordings or Path(tempfile.mkdtemp(prefix="sfu-demo-"))).absolute()
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), TimeElapsedColumn())
    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("")
            report = asyncio.run(_run(seconds, kept, lambda text: progress.update(task, description=text)))
    except (DemoFailed, ConnectionError, TimeoutError) as error:
        report = {"ok": False, "problems": [str(error) or type(error).__name__]}
    if as_json:
        sys.stdout.write(json.dumps(report) + "\n")
    elif "ends" in report:
        _print(report, Console())
    else:
        console.print(f"[bold red]not right[/]: {report['problems'][0]}")
    return 0 if report["ok"] else 1
