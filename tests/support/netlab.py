"""Bad links between a server and its clients, in network namespaces: narrow, long and lossy ones.

    with Lab() as lab:
        bob = lab.link(delay_s=0.025)
        bob.command("chromium")  # the command that runs a program at the far end of his link
        bob.narrow(300_000)
        bob.lose(0.05)

Needs root, iproute2 and util-linux; of the kernel veth, TUN and `tbf`, neither `netem` nor netfilter.

A namespace lives as long as somebody is in it. Each is held by a process that ends when its standard input
does, so with the test, however that ends; nothing has a name that could collide with one of another run.

This file is also a program, and then the wire of one link: it carries packets between two TUN devices, late,
and not all of them.
"""

import fcntl
import json
import os
import random
import select
import shlex
import shutil
import struct
import subprocess
import sys
import time
from collections import deque
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

# The server's address, the same over every link; link n has 10.77.n.1 there and 10.77.n.2 at the client.
SERVER_IP = "10.77.0.1"

# What an open link passes: more than anything here sends.
OPEN_BPS = 1_000_000_000

# The bucket of a narrow link, and how long a packet may wait for it before it is dropped.
BURST_BYTES = 6_000
LATENCY = "300ms"

# How long a program may take to end before it is killed.
_FAREWELL_S = 5.0

_TOOLS = ("ip", "tc", "nsenter", "unshare")

# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_IFF_TUN_NO_PI = 0x1001


class LabError(Exception):
    """There can be no laboratory here; the message says why."""


@dataclass(frozen=True)
class Figures:
    """How a wire did its work."""

    # Packets towards the client.
    carried: int
    lost: int
    # How much later than it should a packet was delivered, either way, on average and at most.
    late_ms: float
    latest_ms: float


@dataclass(frozen=True)
class Traffic:
    """What went towards the client of a link."""

    packets: int
    dropped: int

    def __sub__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.packets - other.packets, self.dropped - other.dropped)

    @property
    def loss(self) -> float:
        """Share of the packets that was dropped."""
        return self.dropped / max(1, self.packets + self.dropped)


class Lab:
    """A server's namespace, and one behind a link for each client."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._links = 0
        self.server: Namespace

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise LabError("needs root: network namespaces are made and entered")
        missing = [tool for tool in _TOOLS if not shutil.which(tool)]
        if missing:
            raise LabError(f"{', '.join(missing)} missing: apt install iproute2 util-linux")
        with self._stack:
            self.server = self._stack.enter_context(Namespace())
            self.server.run(f"ip address add {SERVER_IP}/32 dev lo")
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def link(self, delay_s: float = 0.0, seed: int = 1) -> "Link":
        """Lay a link to a new client.

        One that delays, or is to lose packets, is a wire in user space; the others are the kernel's alone.
        """
        self._links += 1
        client = self._stack.enter_context(Namespace())
        name, number = f"to{self._links}", self._links
        wire = None
        if delay_s:
            wire = self._stack.enter_context(Wire(self.server, name, delay_s, seed))
            self.server.run(f"ip link set {wire.far} name eth0 netns {client.pid}")
        else:
            self.server.run(f"ip link add {name} type veth peer name eth0 netns {client.pid}")
        # Without IPv6: its address comes a second after the link, and then Chromium fails what it loads.
        self.server.run(
            f"ip link set {name} addrgenmode none",
            f"ip address add 10.77.{number}.1/24 dev {name}",
            f"ip link set {name} up",
        )
        client.run(
            "ip link set eth0 addrgenmode none",
            f"ip address add 10.77.{number}.2/24 dev eth0",
            "ip link set eth0 up",
            f"ip route add default via 10.77.{number}.1",
        )
        link = Link(self.server, client, name, wire)
        link.widen()
        return link


class Namespace:
    """A network namespace with nothing but loopback in it, held by a process of its own."""

    def __init__(self) -> None:
        self._holder = _Helper(["unshare", "--net", "sh", "-c", "ip link set lo up && echo held && exec cat"])
        self.pid = self._holder.pid

    def __enter__(self) -> Self:
        self._holder.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._holder.close()

    def command(self, *argv: str) -> list[str]:
        """Return the command that runs another one in here."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--", *argv]

    def run(self, *commands: str) -> str:
        """Run commands in here, one after the other; return what they said.

        Raises:
            LabError: one failed.

        """
        said = []
        for command in commands:
            done = subprocess.run(self.command(*command.split()), capture_output=True, text=True)
            if done.returncode:
                raise LabError(f"{command}: {done.stderr.strip()}")
            said.append(done.stdout)
        return "".join(said)

    def script(self, program: Path, directory: Path) -> Path:
        """Return an executable that runs a program in here, for those who take a path only."""
        path = directory / f"{program.name}-in-{self.pid}"
        path.write_text(f'#!/bin/sh\nexec {shlex.join(self.command(str(program)))} "$@"\n')
        path.chmod(0o755)
        return path


@dataclass
class Link:
    """One client's way to the server and back."""

    server: Namespace
    client: Namespace
    # The server's end of it.
    device: str
    wire: "Wire | None" = None

    def narrow(self, rate_bps: int) -> None:
        """Let no more than this through towards the client."""
        self._shape(rate_bps, BURST_BYTES)

    def widen(self) -> None:
        """Let everything through; what was waiting goes first, nothing of it is lost."""
        self._shape(OPEN_BPS, OPEN_BPS // 1000)

    def _shape(self, rate_bps: int, burst: int) -> None:
        self.server.run(
            f"tc qdisc replace dev {self.device} root tbf rate {rate_bps}bit burst {burst} latency {LATENCY}"
        )

    def lose(self, share: float) -> Figures:
        """Lose a share of the packets towards the client, by chance; return what was since the last call."""
        assert self.wire is not None, "only a link with a delay has a wire that can lose packets"
        return Figures(**self.wire.ask(loss=share))

    def traffic(self) -> Traffic:
        """Return what the bucket let through and dropped so far."""
        (bucket,) = json.loads(self.server.run(f"tc -s -j qdisc show dev {self.device} root"))
        return Traffic(bucket["packets"], bucket["drops"])


class _Helper:
    """A program that says a line when it is ready and ends with its standard input."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid
        self._name = shlex.join(command)

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            _, said = self._process.communicate()
            raise LabError(f"{self._name}: {said.strip()}")
        return self

    def ask(self, **question: Any) -> Any:
        """Send a line of JSON and return the one that answers it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(_FAREWELL_S)
            except subprocess.TimeoutExpired:
                self._process.kill()


class Wire:
    """Two TUN devices in a namespace, and the process that carries packets from one to the other."""

    def __init__(self, namespace: Namespace, near: str, delay_s: float, seed: int) -> None:
        self.far = f"{near}far"
        command = [sys.executable, "-I", __file__, near, self.far, str(delay_s), str(seed)]
        self._helper = _Helper(namespace.command(*command))

    def __enter__(self) -> Self:
        self._helper.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._helper.close()

    def ask(self, **change: Any) -> dict[str, Any]:
        """Change what the wire does (`loss`: a share); return its `Figures` since the question before."""
        figures: dict[str, Any] = self._helper.ask(**change)
        return figures


@dataclass
class _Direction:
    """One way of the wire."""

    source: int
    target: int
    loss: float = 0.0
    carried: int = 0
    lost: int = 0
    # When what is under way arrives; the delay is the same for all, so none overtakes another.
    under_way: deque[tuple[float, bytes]] = field(default_factory=deque)


class _Carrier:
    """The inside of the wire's process."""

    def __init__(self, near: str, far: str, delay_s: float, seed: int) -> None:
        near_fd, far_fd = _open_tun(near), _open_tun(far)
        self._towards_far = _Direction(near_fd, far_fd)
        self._directions = (self._towards_far, _Direction(far_fd, near_fd))
        self._delay_s = delay_s
        self._random = random.Random(seed)
        self._lateness: list[float] = []

    def carry(self) -> None:
        """Carry packets until the standard input ends."""
        questions = sys.stdin.fileno()
        sources = [direction.source for direction in self._directions]
        while True:
            heads = [direction.under_way[0][0] for direction in self._directions if direction.under_way]
            patience = max(0.0, min(heads) - time.monotonic()) if heads else None
            ready, _, _ = select.select([*sources, questions], [], [], patience)
            for direction in self._directions:
                if direction.source in ready:
                    self._take(direction)
                self._deliver(direction)
            if questions in ready:
                line = sys.stdin.readline()
                if not line:
                    return
                self._answer(json.loads(line))

    def _take(self, direction: _Direction) -> None:
        due = time.monotonic() + self._delay_s
        with suppress(BlockingIOError):
            while True:
                packet = os.read(direction.source, 65_536)
                if direction.loss and self._random.random() < direction.loss:
                    direction.lost += 1
                else:
                    direction.carried += 1
                    direction.under_way.append((due, packet))

    def _deliver(self, direction: _Direction) -> None:
        now = time.monotonic()
        while direction.under_way and direction.under_way[0][0] <= now:
            due, packet = direction.under_way.popleft()
            self._lateness.append(now - due)
            with suppress(OSError):  # the device is not up (any more)
                os.write(direction.target, packet)

    def _answer(self, question: dict[str, float]) -> None:
        there = self._towards_far
        there.loss = question.get("loss", there.loss)
        late = self._lateness or [0.0]
        figures = Figures(there.carried, there.lost, sum(late) / len(late) * 1000, max(late) * 1000)
        there.carried = there.lost = 0
        self._lateness = []
        print(json.dumps(asdict(figures)), flush=True)


def _open_tun(name: str) -> int:
    """Make a TUN device in this namespace, for as long as this process lives; it may be moved to another."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN_NO_PI))
    return device


def _be_a_wire(near: str, far: str, delay_s: str, seed: str) -> None:
    with suppress(OSError):  # only the delay is steadier with it, on a machine that is busy
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    carrier = _Carrier(near, far, float(delay_s), int(seed))
    print("up", flush=True)
    carrier.carry()


if __name__ == "__main__":
    _be_a_wire(*sys.argv[1:])
