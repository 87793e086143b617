"""What it costs to record: a hundred calls of two at once, each sending 1 Mbit/s of video and a voice.

    python -m bench.recording [--calls 100] [--seconds 20] [--kbps 1000]

Packets go the way that they go in the server: into the channel, through the process that writes, onto the
disk; only the network is left out. Frames are random bytes behind real VP8 headers, so nothing can be saved
on them. CPU is that of both processes, without what it takes to make the packets. The recordings are checked
afterwards, and every frame must be there.
"""

import argparse
import asyncio
import json
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import av

from sfu import clock
from sfu.media.packet import build
from sfu.recorder.client import RecorderClient
from sfu.recorder.evidence import public_key, verify

FRAMES_PER_S, VOICE_PER_S = 30, 50
_MTU = 1_100
_KEYFRAME_HEAD = bytes.fromhex("5000009d012a80026801")  # 640x360
_DELTA_HEAD = bytes.fromhex("510000")


class Sender:
    """The packets of one participant: video as it comes in bursts, voice each 20 ms."""

    def __init__(self, number: int, kbps: int) -> None:
        self.number, self._size = number, kbps * 1000 // 8 // FRAMES_PER_S
        self.video_sequence = self.voice_sequence = 0
        self.frames = 0

    def picture(self) -> list[bytes]:
        """Return the packets of the next frame."""
        head = _KEYFRAME_HEAD if self.frames % 300 == 0 else _DELTA_HEAD
        body = head + os.urandom(self._size)
        timestamp = self.frames * 90_000 // FRAMES_PER_S
        self.frames += 1
        parts = [body[at : at + _MTU] for at in range(0, len(body), _MTU)]
        packets = []
        for index, part in enumerate(parts):
            descriptor = b"\x10" if index == 0 else b"\x00"
            last = index == len(parts) - 1
            packets.append(
                build(
                    96,
                    self.video_sequence & 0xFFFF,
                    timestamp & 0xFFFFFFFF,
                    1,
                    descriptor + part,
                    marker=last,
                )
            )
            self.video_sequence += 1
        return packets

    def voice(self) -> bytes:
        """Return the next packet of voice."""
        at = self.voice_sequence
        self.voice_sequence += 1
        return build(111, at & 0xFFFF, at * 960 & 0xFFFFFFFF, 2, b"\xf8" + os.urandom(79))


class Call:
    """One call of two, as the channel sees it."""

    def __init__(self, number: int, kbps: int) -> None:
        self.number = number
        self.senders = [Sender(0, kbps), Sender(1, kbps)]

    def open(self, client: RecorderClient) -> None:
        """Tell of the recording and its four sources."""
        about = {
            "recording_id": f"rec_{self.number:04d}",
            "call_id": f"call_{self.number}",
            "room": f"call_{self.number}",
            "started_at": clock.timestamp(clock.wallclock()),
        }
        client.send({"type": "open", "rec": self.number, "about": about})
        for sender in self.senders:
            for kind, formats in (
                ("video", {"96": ["vp8", 90_000, 1]}),
                ("audio", {"111": ["opus", 48_000, 2]}),
            ):
                source = sender.number * 2 + (kind == "audio") + 1
                whose = {
                    "kind": kind,
                    "track_id": f"trk_{source}",
                    "participant_id": f"par_{sender.number}",
                    "user_id": f"user{sender.number}",
                    "user_name": f"User {sender.number}",
                    "source": "camera" if kind == "video" else "microphone",
                    "rid": "",
                    "ssrc": source,
                }
                client.send(
                    {
                        "type": "source",
                        "rec": self.number,
                        "source": source,
                        "about": whose,
                        "formats": formats,
                    }
                )


def _cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _feed(calls: list[Call], seconds: float, client: RecorderClient | None) -> int:
    """Send in real time, spread evenly; return how many packets."""
    began = clock.now()
    events = []
    for index, call in enumerate(calls):
        for sender in call.senders:
            offset = (index * 2 + sender.number) / (len(calls) * 2)
            events += [
                ((offset + n) / FRAMES_PER_S, call, sender, True) for n in range(int(seconds * FRAMES_PER_S))
            ]
            events += [
                ((offset + n) / VOICE_PER_S, call, sender, False) for n in range(int(seconds * VOICE_PER_S))
            ]
    events.sort(key=lambda event: event[0])
    sent = 0
    for at, call, sender, is_video in events:
        if (wait := began + at - clock.now()) > 0:
            await asyncio.sleep(max(0.005, wait))
        packets = sender.picture() if is_video else [sender.voice()]
        source = sender.number * 2 + (1 if is_video else 2)
        sent += len(packets)
        if client is not None:
            at_us = round((clock.now() - began) * 1e6)
            for packet in packets:
                client.send_media(call.number, source, at_us, packet)
    return sent


async def _measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    sealed: dict[int, Any] = {}
    done, opened = asyncio.Event(), asyncio.Event()
    failures: list[dict[str, Any]] = []
    ready = 0

    def receive(message: dict[str, Any]) -> None:
        nonlocal ready
        if message["type"] == "sealed":
            sealed[message["rec"]] = message["manifest"]
            if len(sealed) == options.calls:
                done.set()
        elif message["type"] == "opened":
            ready += 1
            if ready == options.calls:
                opened.set()
        elif message["type"] == "failed":
            failures.append(message)

    # What it takes to make the packets, without the channel.
    before = time.process_time()
    await _feed([Call(n, options.kbps) for n in range(options.calls)], 3, None)
    making_s = (time.process_time() - before) / 3 * options.seconds

    client = RecorderClient(folder / "recordings", folder / "signing.pem", receive, lambda: None)
    await client.start()
    assert client.pid is not None
    calls = [Call(number, options.kbps) for number in range(1, options.calls + 1)]
    for call in calls:
        call.open(client)
    await opened.wait()
    mine, its = time.process_time(), _cpu_s(client.pid)
    sent = await _feed(calls, options.seconds, client)
    mine, its = time.process_time() - mine, _cpu_s(client.pid) - its
    dropped = sum(client.dropped.values())
    for call in calls:
        client.send({"type": "close", "rec": call.number, "reason": "done", "t_ms": 0})
    async with asyncio.timeout(120):
        await done.wait()
    await client.close()
    frames = sum(file["frames"] for manifest in sealed.values() for file in manifest["files"])
    wanted = options.calls * 2 * int(options.seconds) * (FRAMES_PER_S + VOICE_PER_S)
    return {
        "calls": options.calls,
        "seconds": options.seconds,
        "packets": sent,
        "dropped": dropped,
        "failed": len(failures),
        "frames": frames,
        "frames_wanted": wanted,
        "megabytes": round(sum(manifest["bytes"] for manifest in sealed.values()) / 1e6, 1),
        "recorder_percent_of_core": round(its / options.seconds * 100, 1),
        "server_percent_of_core": round(max(0.0, mine - making_s) / options.seconds * 100, 1),
        "percent_of_core_per_call": round(
            (its + max(0.0, mine - making_s)) / options.seconds / options.calls * 100, 2
        ),
        "recorder_rss_mib": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, 1),
    }


def _check(folder: Path) -> list[str]:
    """Return what is wrong with the recordings; one of them is opened and its packets are counted."""
    key = public_key(folder / "signing.pub")
    wrong = []
    for recording in sorted((folder / "recordings").glob("rec_*")):
        wrong += [f"{recording.name}: {problem}" for problem in verify(recording, key).problems]
    first = next((folder / "recordings").glob("rec_*/*.mkv"))
    with av.open(str(first)) as container:
        if not sum(packet.size > 0 for packet in container.demux()):
            wrong.append(f"{first}: empty")
    return wrong


def main(arguments: list[str] | None = None) -> int:
    """Print one JSON object; 0 if nothing was dropped and all is right."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--kbps", type=int, default=1000)
    options = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="sfu-bench-recording-"))
    try:
        report = asyncio.run(_measure(folder, options))
        report["wrong"] = _check(folder)
    finally:
        shutil.rmtree(folder)
    print(json.dumps(report))
    return 0 if not (report["dropped"] or report["wrong"] or report["failed"]) else 1


if __name__ == "__main__":
    raise SystemExit(main())
