"""The servers that are measured: started, watched and stopped."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.load.signalling import ROOM, SECRET

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
ADDRESS = "203.0.113.10"  # RFC 5737: no machine of anybody's
START_S = 60
_TICKS = os.sysconf("SC_CLK_TCK")


class Missing(RuntimeError):
    """A server cannot be measured on this machine."""


@dataclass
class Place:
    """Where everything runs: a namespace of its own with one address, or the loopback without root."""

    ip: str
    prefix: list[str]


@contextlib.contextmanager
def place() -> Iterator[Place]:
    """Make a namespace for one measurement, and take it away afterwards."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        yield Place("127.0.0.1", [])
        return
    name = f"sfu-bench-{os.getpid()}"
    commands = [
        f"ip netns add {name}",
        f"ip -n {name} link set lo up",
        f"ip -n {name} link add v0 type veth peer name v1",
        f"ip -n {name} addr add {ADDRESS}/24 dev v0",
        f"ip -n {name} link set v0 up",
        f"ip -n {name} link set v1 up",
    ]
    try:
        for command in commands:
            subprocess.run(command.split(), check=True, capture_output=True)
        yield Place(ADDRESS, ["ip", "netns", "exec", name])
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@dataclass
class Usage:
    """What a process and its children used so far: seconds of CPU, KiB of memory now."""

    cpu_s: float
    rss_kib: int


class Server:
    """A running server; `url` is its WebSocket."""

    def __init__(
        self,
        kind: str,
        url: str,
        command: list[str],
        where: Place,
        environment: dict[str, str],
        cwd: Path,
        core: int,
    ) -> None:
        self.kind, self.url = kind, url
        self._log = tempfile.NamedTemporaryFile(prefix=f"bench-{kind}-", suffix=".log")  # noqa: SIM115
        pin = ["taskset", "-c", str(core)] if (os.cpu_count() or 1) > 1 and shutil.which("taskset") else []
        self._process = subprocess.Popen(
            [*where.prefix, *pin, *command],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
            cwd=cwd,
            start_new_session=True,
        )

    @property
    def log(self) -> str:
        return Path(self._log.name).read_text(errors="replace")[-2000:]

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def pids(self) -> list[int]:
        """Return the process and everything it has started."""
        children: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError, IndexError):
                    parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                    children.setdefault(parent, []).append(int(entry.name))
        found, todo = [], [self._process.pid]
        while todo:
            found.append(todo.pop())
            todo += children.get(found[-1], [])
        return found

    def usage(self) -> Usage:
        """Return what the whole tree has used; CPU by the scheduler's clock, not by ticks."""
        cpu, rss = 0.0, 0
        for pid in self.pids():
            with contextlib.suppress(OSError, IndexError, StopIteration):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    cpu += int((task / "schedstat").read_text().split()[0]) / 1e9
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                rss += next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
        return Usage(cpu, rss)

    def stop(self) -> None:
        """Ask it to end, then make it."""
        pids = self.pids()
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


_READY = """
import sys, time, socket, urllib.request
kind, port, until = sys.argv[1], int(sys.argv[2]), time.time() + float(sys.argv[3])
while time.time() < until:
    try:
        if kind == "sfu":
            urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1)
        else:
            socket.create_connection(("127.0.0.1", port), 1).close()
        sys.exit(0)
    except OSError:
        time.sleep(0.05)
sys.exit(1)
"""


# Our own code is taken from there: `make bench` names the tree that `make compiled` has made.
TREE = Path(os.environ.get("SFU_BENCH_TREE", ROOT)).resolve()


def start(kind: str, where: Place, *, core: int = 0, tree: Path = TREE) -> Server:
    """Start a server and wait until it takes connections.

    `tree` is where our own code is taken from, so that another revision, or compiled code, can be measured.

    Raises:
        Missing: it is not installed, or it did not come up; the message says which and why.

    """
    port = _free_port()
    environment: dict[str, str] = {}
    cwd = ROOT
    if kind == "sfu":
        url, command, cwd = f"ws://127.0.0.1:{port}/ws", [sys.executable, "-m", "sfu", "serve"], tree
        environment = {
            "PYTHONPATH": str(tree),
            "SFU_AUTH__SECRET": SECRET,
            "SFU_STORE__URL": "memory://",
            "SFU_HTTP__HOST": "127.0.0.1",
            "SFU_HTTP__PORT": str(port),
            "SFU_MEDIA__LISTEN_IP": where.ip,
            "SFU_MEDIA__PUBLIC_IP": where.ip,
            "SFU_MEDIA__UDP_PORT": "0",
            "SFU_MEDIA__TCP_PORT": "0",
            "SFU_MEDIA__MAX_PEERS": "2000",
            "SFU_LOG__LEVEL": "warning",
        }
    elif kind == "pion":
        url, command = f"ws://127.0.0.1:{port}/ws", [build_pion(), f"127.0.0.1:{port}"]
    elif kind == "janus":
        url, command = f"ws://127.0.0.1:{port}/", ["janus", "-F", _janus_folder(where.ip, port), "-d", "3"]
        if shutil.which("janus") is None:
            raise Missing("janus is not installed: apt-get install janus")
    else:
        raise Missing(f"no server is called {kind}")
    server = Server(kind, url, command, where, environment, cwd, core)
    ready = [*where.prefix, sys.executable, "-c", _READY, kind, str(port), str(START_S)]
    if subprocess.run(ready, check=False).returncode or server.has_ended:
        log = server.log
        server.stop()
        raise Missing(f"{kind} did not start: {log}")
    return server


def _janus_folder(ip: str, port: int) -> str:
    folder = Path(tempfile.mkdtemp(prefix="bench-janus-"))
    for source in (HERE / "janus").glob("*.jcfg"):
        text = source.read_text().replace("@IP@", ip).replace("@PORT@", str(port)).replace("@ROOM@", ROOM)
        (folder / source.name).write_text(text)
    return str(folder)


def build_pion() -> str:
    """Build the small Pion server from Debian's packages; return the program's path."""
    target = Path(tempfile.gettempdir()) / "sfu-bench-pion"
    source = HERE / "pion" / "main.go"
    if target.exists() and target.stat().st_mtime > source.stat().st_mtime:
        return str(target)
    installed = Path("/usr/share/gocode/src")
    if shutil.which("go") is None or not (installed / "github.com/pion/webrtc").exists():
        raise Missing(
            "Pion is not installed: apt-get install golang-go golang-github-pion-webrtc.v3-dev "
            "golang-github-gorilla-websocket-dev"
        )
    with tempfile.TemporaryDirectory() as path:
        # Debian drops the major version from the import path: put it back by a link.
        github = Path(path, "src", "github.com")
        github.mkdir(parents=True)
        for entry in installed.iterdir():
            if entry.name != "github.com":
                (github.parent / entry.name).symlink_to(entry)
        for entry in (installed / "github.com").iterdir():
            if entry.name != "pion":
                (github / entry.name).symlink_to(entry)
        (github / "pion" / "webrtc").mkdir(parents=True)
        for entry in (installed / "github.com/pion").iterdir():
            if entry.name != "webrtc":
                (github / "pion" / entry.name).symlink_to(entry)
        (github / "pion/webrtc/v3").symlink_to(installed / "github.com/pion/webrtc")
        environment = os.environ | {"GO111MODULE": "off", "GOPATH": path, "GOFLAGS": ""}
        built = subprocess.run(
            ["go", "build", "-o", str(target), str(source)],
            env=environment,
            check=False,
            capture_output=True,
            text=True,
        )
        if built.returncode:
            raise Missing(f"the Pion server cannot be built: {built.stderr[-500:]}")
    return str(target)
