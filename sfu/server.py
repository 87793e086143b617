"""The composition root: settings → parts → one aiohttp application → an orderly stop."""

import asyncio
import contextlib
import gc
import ipaddress
import secrets
import signal
from pathlib import Path

import structlog
from aiohttp import web
from aioice.ice import get_host_addresses

from sfu import clock
from sfu.api.http import add_dev_tokens, add_health, add_page, problems
from sfu.auth import TokenAuthority
from sfu.bus.memory import MemoryBus
from sfu.calls.ports import StoredEvent
from sfu.calls.service import CallService
from sfu.media.dtls import Certificate
from sfu.media.peer_connection import PeerSettings
from sfu.media.plane import MediaPlane
from sfu.media.ports import MediaPorts
from sfu.media.udp import UdpPort
from sfu.metrics import Metrics
from sfu.settings import Settings, SettingsError
from sfu.signaling.gateway import Gateway
from sfu.signaling.hub import Hub
from sfu.signaling.media_link import MediaLink
from sfu.store.memory import MemoryStore

log = structlog.get_logger()

# How long sockets and peers may take to say goodbye.
SHUTDOWN_S = 5.0


def for_development(settings: Settings) -> Settings:
    """Return settings with a throw-away secret, on loopback and nowhere else.

    Raises:
        SettingsError: an address was set that others could reach.

    """
    for name, value in (
        ("http.host", settings.http.host),
        ("media.listen_ip", settings.media.listen_ip),
        ("media.public_ip", settings.media.public_ip),
    ):
        section, field = name.split(".")
        was_set = field in getattr(settings, section).model_fields_set
        if was_set and value and not _is_loopback(value):
            raise SettingsError(
                f"{name}: {value} is not loopback. --dev gives anybody a token: it serves this machine only. "
                "Set auth.secret and leave --dev out."
            )
    media = settings.media.model_copy(update={"listen_ip": "127.0.0.1", "public_ip": "127.0.0.1"})
    auth = settings.auth.model_copy(
        update={"secret": settings.auth.secret or secrets.token_urlsafe(32), "algorithms": ["HS256"]}
    )
    calls = settings.calls.model_copy(update={"directory": True})
    return settings.model_copy(update={"media": media, "auth": auth, "calls": calls})


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def _advertised(listen_ip: str, public_ip: str) -> list[str]:
    """Return the addresses that clients are told."""
    if public_ip:
        return [public_ip]
    if not ipaddress.ip_address(listen_ip).is_unspecified:
        return [listen_ip]
    return get_host_addresses(use_ipv4=True, use_ipv6=":" in listen_ip) or ["127.0.0.1"]


class Server:
    """All parts of one process."""

    def __init__(self, settings: Settings, *, dev: bool = False) -> None:
        self.settings = for_development(settings) if dev else settings
        self._dev = dev
        self.metrics = Metrics()
        self.authority = TokenAuthority(self.settings.auth)
        self._ready = False
        self._runner: web.AppRunner | None = None
        self.http_port = 0

    async def start(self) -> None:
        """Open every port.

        Raises:
            SettingsError: an address cannot be listened on.

        """
        settings, metrics = self.settings, self.metrics
        path = settings.media.certificate_file
        certificate = Certificate.at(Path(path)) if path else Certificate.fresh()
        try:
            udp = UdpPort(settings.media.listen_ip, settings.media.udp_port, metrics.media, clock.now)
        except OSError as error:
            raise SettingsError(f"media.udp_port: {settings.media.udp_port}: {error.strerror}") from error
        self.ports = MediaPorts(udp, metrics.media, clock.now)
        try:
            await self.ports.start(
                settings.media.listen_ip,
                settings.media.tcp_port,
                _advertised(settings.media.listen_ip, settings.media.public_ip),
            )
        except OSError as error:
            udp.close()
            raise SettingsError(f"media.tcp_port: {settings.media.tcp_port}: {error.strerror}") from error
        self._compose(certificate)
        await self.plane.start()
        self._runner = web.AppRunner(self._application(), access_log=None, shutdown_timeout=SHUTDOWN_S)
        await self._runner.setup()
        site = web.TCPSite(self._runner, settings.http.host, settings.http.port)
        try:
            await site.start()
        except OSError as error:
            await self.stop()
            raise SettingsError(f"http.port: {settings.http.port}: {error.strerror}") from error
        self.http_port = self._runner.addresses[0][1]
        gc.collect()
        gc.freeze()  # what stands now stays: the collector need not walk it again
        # Packets come and go by counting references; a walk over all that are kept would stall them.
        gc.set_threshold(50_000, 20, 50)
        self._ready = True
        log.info(
            "ready",
            url=f"http://{settings.http.host}:{self.http_port}",
            udp_port=self.ports.udp.port,
            tcp_port=self.ports.tcp.port,
        )
        for name, url in (("store.url", settings.store.url), ("bus.url", settings.bus.url)):
            if url != "memory://":
                log.warning("setting_without_effect", setting=name, told="calls are kept in memory only")

    def _compose(self, certificate: Certificate) -> None:
        settings, metrics = self.settings, self.metrics
        peers = PeerSettings(
            self.ports, certificate, settings.media.connect_timeout_s, settings.media.expiry_s
        )
        # The plane tells its events to the link, which needs the plane: they meet here.
        self.plane = MediaPlane(
            peers,
            frozenset(settings.media.codecs),
            settings.media.max_peers,
            lambda peer_id, type_, data: self.link.receive(peer_id, type_, data),
        )
        metrics.live.peers = lambda: self.plane.peers
        metrics.live.rooms = lambda: len(self.plane.rooms)
        metrics.live.tracks = lambda: self.plane.tracks
        metrics.live.tasks = lambda: len(asyncio.all_tasks())
        metrics.live.worst_stall_s = lambda: self.plane.worst_stall_s
        metrics.live.links = lambda: self.plane.qualities()
        store: MemoryStore[StoredEvent] = MemoryStore(StoredEvent)
        bus: MemoryBus[StoredEvent] = MemoryBus()
        self.hub = Hub(store, settings.http.resume_window_s, directory=settings.calls.directory)
        self.calls = CallService(store, bus, settings.calls, metrics, self.hub.name_of)
        bus.subscribe(self.hub.receive)
        self.link = MediaLink(self.hub, self.calls, self.plane)
        self.gateway = Gateway(
            settings.http,
            settings.media.ice_servers,
            self.authority,
            self.hub,
            self.calls,
            self.link,
            metrics,
        )

    def _application(self) -> web.Application:
        app = web.Application(middlewares=[problems])
        app.router.add_get("/ws", self.gateway.handle)
        add_health(app, self.metrics, lambda: self._ready and not self.gateway.is_draining)
        if self._dev:
            add_dev_tokens(app, self.authority)
        add_page(app)
        return app

    async def stop(self) -> None:
        """Send everybody away, then close from the outside to the inside; nothing is left."""
        self._ready = False
        await self.gateway.drain()
        if self._runner is not None:
            await self._runner.cleanup()
        await self.hub.close()
        await self.calls.close()
        await self.plane.close()
        await self.ports.close()
        log.info("stopped")


async def serve(settings: Settings, *, dev: bool) -> None:
    """Run a server until SIGTERM or SIGINT."""
    server = Server(settings, dev=dev)
    await server.start()
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()
    await server.stop()
