"""The composition root: settings → parts → one aiohttp application → an orderly stop."""

import asyncio
import contextlib
import ipaddress
import secrets
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import astuple
from pathlib import Path
from typing import Any, cast

import structlog
from aiohttp import web
from aioice.ice import get_host_addresses

from sfu import clock, event_loop, ids
from sfu.api.calls import CallEndpoints
from sfu.api.host import HostEndpoints
from sfu.api.http import add_dev_tokens, add_health, add_page, problems
from sfu.api.outbox import OutboxEndpoints
from sfu.api.predecessors import PredecessorEndpoints
from sfu.api.recordings import RecordingEndpoints
from sfu.api.routes import Api
from sfu.auth import TokenAuthority
from sfu.bus.memory import MemoryBus
from sfu.calls.ports import StoredEvent, decode_event, encode_event
from sfu.calls.service import CallService
from sfu.calls.survivors import Survivors
from sfu.calls.views import CallViews
from sfu.calls.webhooks import WebhookSender
from sfu.errors import Unavailable
from sfu.media import packet
from sfu.media.dtls import Certificate
from sfu.media.peer_connection import PeerSettings
from sfu.media.plane import MediaPlane
from sfu.media.ports import MediaPorts
from sfu.media.udp import UdpPort
from sfu.metrics import Metrics
from sfu.recorder.service import Recordings
from sfu.settings import Settings, SettingsError
from sfu.signaling.gateway import Gateway
from sfu.signaling.hub import Hub
from sfu.signaling.media_link import MediaLink
from sfu.store.memory import MemoryStore
from sfu.store.records import StoreError
from sfu.store.remote import RemoteStore

log = structlog.get_logger()

# A store or bus of this process alone.
MEMORY = "memory://"

# How long another thread may hold the interpreter while the loop wants it.
SWITCH_S = 0.0005

# How long sockets and peers may take to say goodbye.
SHUTDOWN_S = 5.0

# How long the recorder may take to seal everything, and how long any other part to end.
SEAL_S, PART_S = 75.0, 15.0


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
        update={
            "secret": settings.auth.secret or secrets.token_urlsafe(32),
            "algorithms": ["HS256"],
            "jwks_url": "",
        }
    )
    calls = settings.calls.model_copy(update={"directory": True})
    webhooks = settings.webhooks.model_copy(update={"allow_private": True})
    sections: dict[str, Any] = {"media": media, "auth": auth, "calls": calls, "webhooks": webhooks}
    if "url" not in settings.store.model_fields_set:
        sections["store"] = settings.store.model_copy(update={"url": MEMORY})
    return settings.model_copy(update=sections)


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


def open_store(url: str, restarted: Callable[[], Awaitable[None]]) -> MemoryStore[StoredEvent]:
    """Return the store of a URL, not opened yet; `restarted` is called when it died and is back."""
    if url == MEMORY:
        return MemoryStore(StoredEvent)
    # It is asked as any store; SQLAlchemy is in its process alone.
    return cast(MemoryStore[StoredEvent], RemoteStore(url, StoredEvent, restarted))


def open_bus(url: str, name: str) -> MemoryBus[StoredEvent]:
    """Return the bus of a URL; it is not started yet.

    Raises:
        SettingsError: it is none that is known.

    """
    if url == MEMORY:
        return MemoryBus()
    from sfu.bus.redis import RedisBus

    try:
        # It is asked as any bus; who has no Redis does not load its client.
        return cast(MemoryBus[StoredEvent], RedisBus(url, name, encode_event, decode_event))
    except ValueError as error:
        raise SettingsError(f"bus.url: {error}") from error


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
        try:
            self._compose(certificate)
            await self.store.open()
            await self.bus.start()
            await self.calls.start()
            await self.survivors.start()
            await self.webhooks.start()
            await self._start_recorder()
        except (StoreError, Unavailable) as error:
            await self.ports.close()
            raise SettingsError(f"store.url: {error}") from error
        await self.plane.start()
        await self.authority.start()
        self._runner = web.AppRunner(self._application(), access_log=None, shutdown_timeout=SHUTDOWN_S)
        await self._runner.setup()
        site = web.TCPSite(self._runner, settings.http.host, settings.http.port)
        try:
            await site.start()
        except OSError as error:
            await self.stop()
            raise SettingsError(f"http.port: {settings.http.port}: {error.strerror}") from error
        self.http_port = self._runner.addresses[0][1]
        self._ready = True
        log.info(
            "ready",
            url=f"http://{settings.http.host}:{self.http_port}",
            udp_port=self.ports.udp.port,
            tcp_port=self.ports.tcp.port,
            compiled=not packet.__file__.endswith(".py"),
        )

    async def _start_recorder(self) -> None:
        try:
            await self.recordings.start()
        except Unavailable as error:
            await self.recordings.close()
            for part in (self.webhooks, self.survivors, self.calls, self.bus, self.store):
                await part.close()
            await self.ports.close()
            raise SettingsError(f"recorder.path: {error.message}") from error

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
        metrics.live.worst_stall = lambda: astuple(self.plane.worst_stall)
        metrics.live.links = lambda: self.plane.qualities()
        metrics.live.video_slots = lambda: self.plane.video_slots()
        self.process_id = ids.process_id()
        # Of what was under way when it died it is not known whether it is kept: whoever missed it is told.
        self.store = open_store(settings.store.url, lambda: self.hub.catch_up_all())
        self.bus = open_bus(settings.bus.url, self.process_id)
        self.hub = Hub(
            self.store,
            settings.http.resume_window_s,
            directory=settings.calls.directory,
            process_id=self.process_id,
        )
        self.calls = CallService(self.store, self.bus, settings.calls, metrics, self.hub.name_of)
        self.survivors = Survivors(
            self.store,
            self.calls,
            self.process_id,
            settings.calls.grace_s,
            lambda user_id: bool(self.hub.sessions(user_id)),
        )
        metrics.live.store_is_there = lambda: self.survivors.store_is_there
        metrics.live.bus_is_there = lambda: self.bus.is_there
        self.webhooks = WebhookSender(self.store.outbox, settings.webhooks)
        self.bus.subscribe(self.hub.receive)
        self.bus.subscribe_remote(self.calls.changed_elsewhere)
        self.bus.on_missed(self.hub.catch_up_all)
        self.link = MediaLink(self.hub, self.calls, self.plane)
        self.recordings = Recordings(
            settings.recorder, self.store.recordings, self.calls, self.plane, self.process_id
        )
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
        app.router.add_get("/ws/video-call/{user_id}/", self.gateway.handle_video_call)
        app.router.add_get("/ws/notifications/", self.gateway.handle_notifications)
        app.router.add_get("/ws/chat/{conversation_id}/", self.gateway.handle_chat)
        add_health(app, self.metrics, self._why_not_ready)
        views = CallViews(self.authority)
        endpoints = [
            *CallEndpoints(self.calls, views).all(),
            *HostEndpoints(self.calls, self.authority, self.link, self.recordings.policies.check).all(),
            *RecordingEndpoints(self.recordings, self.calls, views).all(),
            *OutboxEndpoints(self.store.outbox, allow_private=self.settings.webhooks.allow_private).all(),
        ]
        limit = self.settings.http.requests_per_minute
        Api(self.authority, endpoints, self.gateway.url, limit).add_described_to(app)
        before = PredecessorEndpoints(self.calls, views).all()
        Api(self.authority, before, self.gateway.url, limit, prefix="").add_to(app)
        if self._dev:
            add_dev_tokens(app, self.authority)
        add_page(app)
        return app

    def _why_not_ready(self) -> str | None:
        """Return what keeps this process from taking new calls; None if nothing does."""
        if not self._ready or self.gateway.is_draining:
            return "draining"
        if not self.survivors.store_is_there:
            return "store_away"
        if not self.authority.has_keys:
            return "keys_away"
        return None if self.bus.is_there else "bus_away"

    async def stop(self) -> bool:
        """Send everybody away, then close from the outside to the inside; tell whether all has ended.

        What fails, or takes too long, is told, and keeps nothing else from its end.
        """
        self._ready = False
        # First, so that it is the server's end that ends recordings, and not what it does to calls.
        is_clean = await _ended(self.recordings.close, SEAL_S)
        for close in (
            self.gateway.drain,
            *([self._runner.cleanup] if self._runner is not None else []),
            self.authority.close,
            self.hub.close,
            self.webhooks.close,
            self.survivors.close,
            self.calls.close,
            self.bus.close,
            self.store.close,
            self.plane.close,
            self.ports.close,
        ):
            is_clean = await _ended(close, PART_S) and is_clean
        log.info("stopped")
        return is_clean


async def _ended(close: Callable[[], Awaitable[None]], limit_s: float) -> bool:
    """Close a part of the server; tell whether it did within the limit."""
    part = getattr(close, "__qualname__", repr(close))
    try:
        async with asyncio.timeout(limit_s):
            await close()
    except TimeoutError:
        log.error("part_does_not_end", part=part, limit_s=limit_s)
        return False
    except Exception:
        log.exception("part_fails_to_end", part=part)
        return False
    return True


async def serve(settings: Settings, *, dev: bool) -> bool:
    """Run a server until SIGTERM or SIGINT; tell whether it ended as it should."""
    server = Server(settings, dev=dev)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await server.start()
    event_loop.settle()
    # Threads must not keep packets waiting for five milliseconds.
    sys.setswitchinterval(SWITCH_S)
    await stopped.wait()
    return await server.stop()
