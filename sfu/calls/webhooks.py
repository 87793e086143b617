"""Webhooks: what happened to calls, told to the host application, in order and at least once.

Each webhook is told one thing at a time; what it does not take is tried again, later and later, and what
comes behind waits. A body is signed with the webhook's secret over the time and the bytes, so that
neither can be changed, and old ones cannot be sent again.
"""

import asyncio
import contextlib
import hashlib
import hmac
import ipaddress
import json
import socket
from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import urlsplit

import aiohttp
import structlog
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import DefaultResolver

from sfu import clock
from sfu.errors import BadRequest, Unavailable
from sfu.settings import Webhooks
from sfu.tasks import end

log = structlog.get_logger()

# Somebody looks so often whether something is to be delivered, and so rarely at what is old.
LOOK_S, TIDY_S = 0.5, 60.0

# While a delivery is on its way no other process begins it.
TAKEN_S = 60.0

# After each failure the next attempt waits so long, the last one ever again; then it is given up.
RETRIES_S = (1.0, 5.0, 30.0, 120.0, 600.0, 3600.0)
MAX_ATTEMPTS = 30

# Deliveries at once, each to another webhook.
MAX_AT_ONCE = 20

Document = Mapping[str, Any]


class Outbox(Protocol):
    """Where it stands what is to be told."""

    async def due_deliveries(self, now: float, limit: int = 50) -> Sequence[Document]:
        """Return the first undelivered of each webhook, if its time has come."""

    async def take_delivery(self, delivery: Document, until: float) -> bool:
        """Keep others from delivering this for a while; False: another process was first."""

    async def note_delivery(self, delivery: Document, *, next_at: float | None, error: str | None) -> None:
        """Note how a delivery went: when to try again, or None for never."""

    async def tidy(self, now: float) -> None:
        """Forget what was delivered long ago."""


def sign(secret: str, at: int, body: bytes) -> str:
    """Return the value of `Sfu-Signature`: the time in seconds since 1970, and HMAC-SHA256 of `time.body`."""
    digest = hmac.new(secret.encode(), b"%d." % at + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


def check_url(url: str, *, allow_private: bool) -> None:
    """Refuse what is no URL of a webhook.

    Raises:
        BadRequest: it is not https (or http), or names an address inside.

    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise BadRequest("url: it cannot be read.", code="bad_url") from error
    if parts.scheme not in ("http", "https") or not host or parts.username or parts.fragment:
        raise BadRequest("url: http://host/path or https://host/path is wanted.", code="bad_url")
    with contextlib.suppress(ValueError):
        if not allow_private and not _is_public(ipaddress.ip_address(host)):
            raise BadRequest(
                "url: addresses inside are not allowed (webhooks.allow_private).", code="bad_url"
            )


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    mapped = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
    if mapped is not None:
        return _is_public(mapped)
    return address.is_global and not address.is_multicast


class PublicResolver(AbstractResolver):
    """Resolves names to public addresses only: what is checked is what is connected to."""

    def __init__(self) -> None:
        self._inner = DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        public = [one for one in found if _is_public(ipaddress.ip_address(one["host"].split("%")[0]))]
        if not public:
            raise OSError(f"{host} is an address inside (webhooks.allow_private)")
        return public

    async def close(self) -> None:
        await self._inner.close()


class WebhookSender:
    """Delivers what the outbox holds."""

    def __init__(self, outbox: Outbox, settings: Webhooks) -> None:
        self._outbox, self._settings = outbox, settings
        self._http: aiohttp.ClientSession | None = None
        self._task: asyncio.Task[None] | None = None
        self._sending: set[asyncio.Task[None]] = set()
        # Set when a delivery is over: the next one to the same webhook may begin.
        self._is_over = asyncio.Event()

    async def start(self) -> None:
        """Begin to deliver."""
        resolver = None if self._settings.allow_private else PublicResolver()
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=resolver, limit=MAX_AT_ONCE),
            timeout=aiohttp.ClientTimeout(total=self._settings.timeout_s),
        )
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop; what is on its way is tried again by the next process."""
        await end(*(task for task in (self._task, *self._sending) if task is not None))
        if self._http is not None:
            await self._http.close()

    async def _run(self) -> None:
        tidy_at = 0.0
        while True:
            try:
                now = clock.unix_seconds()
                if now >= tidy_at:
                    tidy_at = now + TIDY_S
                    await self._outbox.tidy(now)
                for delivery in await self._outbox.due_deliveries(now, MAX_AT_ONCE):
                    if await self._outbox.take_delivery(delivery, now + TAKEN_S):
                        task = asyncio.create_task(self._deliver(delivery))
                        self._sending.add(task)
                        task.add_done_callback(self._delivered)
            except Unavailable:
                pass  # it is told by whoever else needs the store
            except Exception:
                log.exception("webhooks_failed")
            # Not wait_for: it may take a cancellation for the event that comes with it.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._is_over.wait()
            self._is_over.clear()

    def _delivered(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        self._is_over.set()

    async def _deliver(self, delivery: Document) -> None:
        """Send one thing, and note how that went."""
        try:
            error = await self._send(delivery)
            next_at = None if error is None else self._retry_at(delivery)
            if error is not None:
                log.warning(
                    "webhook_refused",
                    webhook_id=delivery["webhook_id"],
                    seq=delivery["seq"],
                    attempts=delivery["attempts"] + 1,
                    told=error,
                )
            await self._outbox.note_delivery(delivery, next_at=next_at, error=error)
        except Unavailable:
            pass  # it is delivered again: at least once
        except Exception:
            log.exception("webhook_failed", webhook_id=delivery["webhook_id"])

    def _retry_at(self, delivery: Document) -> float | None:
        attempts = int(delivery["attempts"])
        if attempts + 1 >= MAX_ATTEMPTS:
            log.error("webhook_given_up", webhook_id=delivery["webhook_id"], seq=delivery["seq"])
            return None
        return clock.unix_seconds() + RETRIES_S[min(attempts, len(RETRIES_S) - 1)]

    async def _send(self, delivery: Document) -> str | None:
        """Send one; return what went wrong, None if it was taken."""
        assert self._http is not None
        told = {"webhook_id": delivery["webhook_id"], "seq": delivery["seq"], **delivery["body"]}
        body = json.dumps(told, separators=(",", ":")).encode()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "sfu",
            "Sfu-Signature": sign(delivery["secret"], int(clock.unix_seconds()), body),
        }
        try:
            check_url(delivery["url"], allow_private=self._settings.allow_private)
            async with self._http.post(
                delivery["url"], data=body, headers=headers, allow_redirects=False
            ) as response:
                return None if response.status < 300 else f"it answered {response.status}"
        except (aiohttp.ClientError, OSError, TimeoutError, BadRequest) as error:
            return (str(error) or type(error).__name__)[:255]
