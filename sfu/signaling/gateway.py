"""`/ws`: the one socket that a user keeps open on every page."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, cast
from urllib.parse import urlsplit

import structlog
from aiohttp import WSMsgType, web

from sfu import clock
from sfu.auth import Identity, TokenAuthority
from sfu.calls.call import Call, to_document
from sfu.calls.service import CallService
from sfu.calls.table import PENDING
from sfu.errors import (
    NotAllowed,
    NotAuthenticated,
    NotFound,
    RateLimited,
    SfuError,
    TooLarge,
    Unavailable,
    to_client,
)
from sfu.metrics import Metrics
from sfu.settings import Http
from sfu.signaling import messages
from sfu.signaling.dialects import PLAIN, ChatNotifications, Dialect, VideoCallNotifications
from sfu.signaling.hub import Event, Hub
from sfu.signaling.media_link import MediaLink
from sfu.signaling.requests import Requests
from sfu.signaling.session import CloseCode, Pace, Session, Socket

log = structlog.get_logger()

PING_INTERVAL_S = 30
SUBPROTOCOL = "sfu.v1"

# aiohttp refuses what is larger without reading it; between this and the limits of the
# protocol a frame is read and refused with its own close code.
_READ_LIMIT_BYTES = 2 << 20


# Finds how a socket speaks, or why it may not be opened.
Speak = Callable[[web.Request, Identity], Awaitable[Dialect]]


class Gateway:
    """Opens sockets, reads frames, and keeps each session in step with its user's events."""

    def __init__(
        self,
        settings: Http,
        ice_servers: list[dict[str, Any]],
        authority: TokenAuthority,
        hub: Hub,
        calls: CallService,
        media: MediaLink,
        metrics: Metrics,
    ) -> None:
        self._settings, self._ice_servers, self._authority = settings, ice_servers, authority
        self._hub, self._calls, self._media, self._metrics = hub, calls, media, metrics
        self._requests = Requests(hub, calls, media, authority)
        self._pace, self._open = Pace(), 0
        self.is_draining = False
        hub.view = self._view_event
        hub.on_delivered = self._delivered
        hub.on_expired = media.session_expired
        calls.on_changed(media.call_changed)

    # Opening

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Serve `/ws` from its handshake to its end."""
        return await self._handle(request, self._plain)

    async def handle_video_call(self, request: web.Request) -> web.StreamResponse:
        """Serve `/ws/video-call/{user_id}/`: of that user only."""
        return await self._handle(request, self._video_call)

    async def handle_notifications(self, request: web.Request) -> web.StreamResponse:
        """Serve `/ws/notifications/`: what concerns a user, on every page."""
        return await self._handle(request, self._notifications)

    async def handle_chat(self, request: web.Request) -> web.StreamResponse:
        """Serve `/ws/chat/{conversation_id}/`: the calls of a conversation, for those who are in it."""
        return await self._handle(request, self._chat)

    async def _plain(self, _: web.Request, __: Identity) -> Dialect:
        return PLAIN

    async def _video_call(self, request: web.Request, identity: Identity) -> Dialect:
        if request.match_info["user_id"] != identity.user_id:
            raise NotAllowed("These are the calls of somebody else.")
        return VideoCallNotifications(identity.user_id)

    async def _notifications(self, _: web.Request, identity: Identity) -> Dialect:
        return ChatNotifications(identity.user_id)

    async def _chat(self, request: web.Request, identity: Identity) -> Dialect:
        conversation_id = request.match_info["conversation_id"]
        try:
            conversation = await self._calls.conversation(conversation_id)
        except NotFound:
            conversation = {"participants": []}
        if identity.user_id not in conversation["participants"]:
            raise NotAllowed("You are not in this conversation.")
        return ChatNotifications(identity.user_id, conversation_id)

    async def _handle(self, request: web.Request, speak: Speak) -> web.StreamResponse:
        if not self._origin_allowed(request):
            raise web.HTTPForbidden(text="This origin may not open the socket.")
        protocols = [p.strip() for p in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        ws = web.WebSocketResponse(
            protocols=[SUBPROTOCOL],
            max_msg_size=_READ_LIMIT_BYTES,
            compress=False,
            timeout=2.0,
        )
        if not ws.can_prepare(request):
            raise web.HTTPUpgradeRequired(
                text="This is a WebSocket.", headers={"Upgrade": "websocket", "Connection": "upgrade"}
            )
        identity, dialect, refused = None, None, (0, "")
        try:
            identity = await self._authority.check(_token(request, protocols))
            dialect = await speak(request, identity)
        except NotAuthenticated as error:
            self._metrics.auth_failures.inc()
            refused = (CloseCode.NOT_AUTHENTICATED, error.message)
        except NotAllowed as error:
            refused = (CloseCode.NOT_ALLOWED, error.message)
        except Unavailable as error:
            refused = (CloseCode.OVERLOADED, error.message)
        await ws.prepare(request)
        if identity is None or dialect is None:
            await ws.close(code=refused[0], message=refused[1].encode())
        elif self.is_draining or self._open >= self._settings.max_sockets:
            code = CloseCode.RESTARTING if self.is_draining else CloseCode.OVERLOADED
            await ws.close(code=code, message=b"connect again a little later")
        else:
            await self._serve(request, ws, identity, dialect)
        return ws

    def _origin_allowed(self, request: web.Request) -> bool:
        """Refuse pages of other hosts (cross-site WebSocket hijacking); programs send no Origin."""
        origin = request.headers.get("Origin")
        if origin is None or origin in self._settings.allowed_origins:
            return True
        own = [request.host]
        if self._settings.public_url:
            own.append(urlsplit(self._settings.public_url).netloc)
        try:
            return urlsplit(origin).netloc in own
        except ValueError:
            return False

    async def _serve(
        self, request: web.Request, ws: web.WebSocketResponse, identity: Identity, dialect: Dialect
    ) -> None:
        transport = cast("asyncio.WriteTransport | None", request.transport)
        if transport is None:  # the peer went while we looked who it is
            return
        socket = Socket(ws, transport, clock.now(), PING_INTERVAL_S, self._pace, dialect)
        writer = asyncio.create_task(socket.write())
        session = None
        self._open += 1
        self._metrics.sockets.inc()
        try:
            query = request.query
            session = await self.begin(
                identity, socket, self.url(request), query.get("resume", ""), query.get("seq", "")
            )
            await self._read(ws, session, socket)
        finally:
            self._open -= 1
            self._metrics.sockets.dec()
            if session is not None:
                self._hub.detach(session, socket, for_good=ws.close_code == 1000)
            socket.closed()
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writer

    async def begin(
        self, identity: Identity, socket: Socket, url: str, token: str = "", seq: str = ""
    ) -> Session:
        """Give a socket its session: the one of a resume token with what it missed, else a new one."""
        session = self._hub.resumable(token, identity.user_id) if token else None
        resumed = session is not None and seq.isascii() and seq.isdecimal() and len(seq) < 16
        if session is None:
            session = self._hub.open(identity, url)
        last = await self._calls.last_seq(identity.user_id)
        session.sent_seq = int(seq) if resumed else last
        if resumed and await self._calls.events_after(identity.user_id, session.sent_seq) is None:
            resumed, session.sent_seq = False, last
        socket.send(messages.event("connected", self._connected(session, resumed)))
        session.is_one_of_several = socket.dialect.is_one_of_several
        self._hub.attach(session, socket)
        if resumed:
            await self._hub.catch_up(session)
        else:
            await self._snapshot(session)
        self._media.tell_state(session)
        return session

    def _connected(self, session: Session, resumed: bool) -> dict[str, Any]:
        return {
            "session_id": session.id,
            "user_id": session.user_id,
            "resume_token": session.resume_token,
            "resumed": resumed,
            "seq": session.sent_seq,
            "server_time": clock.timestamp(clock.wallclock()),
            "protocol": messages.PROTOCOL_VERSION,
            "ping_interval_s": PING_INTERVAL_S,
            "ice_servers": self._ice_servers,
        }

    async def _snapshot(self, session: Session) -> None:
        calls = await self._calls.open_calls(session.user_id)
        views = [self._requests.view(session, to_document(call)) for call in calls]
        socket = session.socket
        if socket is not None:
            socket.send(messages.event("call.snapshot", {"calls": views}))
        for call in calls:
            self._ring_if_pending(call, session)

    def url(self, request: web.Request) -> str:
        """Return the URL of the socket, as this client reaches it."""
        if self._settings.public_url:
            return self._settings.public_url.rstrip("/").replace("http", "ws", 1) + "/ws"
        scheme = "wss" if request.secure else "ws"
        return f"{scheme}://{request.host}/ws"

    # Reading

    async def _read(self, ws: web.WebSocketResponse, session: Session, socket: Socket) -> None:
        dialect = socket.dialect
        while True:
            try:
                message = await ws.receive(timeout=2 * PING_INTERVAL_S)
            except TimeoutError:
                socket.close(CloseCode.SILENT, "nothing heard for two ping intervals")
                return await self._wait_closed(ws)
            if message.type in (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR):
                return None
            if message.type is WSMsgType.TEXT:
                await self.take_frame(dialect.incoming(message.data), session, socket)
            else:
                self._refuse(socket, None, TooLarge("Only text frames of JSON are taken.", code="bad_frame"))
            if not socket.is_open:
                return await self._wait_closed(ws)

    async def _wait_closed(self, ws: web.WebSocketResponse) -> None:
        """Read on until the closing handshake is over; the socket cuts it short if need be."""
        while not ws.closed:
            message = await ws.receive()
            if message.type in (WSMsgType.CLOSED, WSMsgType.CLOSING, WSMsgType.ERROR):
                return

    async def take_frame(self, text: str, session: Session, socket: Socket) -> None:
        """Do what a text frame asks for, and answer it."""
        size = len(text.encode(errors="surrogatepass"))
        try:
            frame = messages.parse_frame(text) if size <= messages.MAX_OFFER_BYTES else None
        except SfuError as error:
            if size <= messages.MAX_FRAME_BYTES:
                self._refuse(socket, None, error)
                return
            frame = None
        if frame is None or (size > messages.MAX_FRAME_BYTES and frame.type != "media.offer"):
            socket.close(CloseCode.TOO_LARGE, "frame too large")
            return
        if not socket.patience.may_speak(clock.now()):
            if socket.patience.too_fast:
                socket.close(CloseCode.TOO_FAST, "too many messages")
            else:
                socket.send(messages.error(frame.id, RateLimited("Too many messages; slow down.").as_data()))
            return
        try:
            request = messages.parse_data(frame)
        except SfuError as error:
            self._refuse(socket, frame.id, error)
            return
        await self._do(frame, request, session, socket)

    def _refuse(self, socket: Socket, re: str | int | None, error: SfuError) -> None:
        socket.send(messages.error(re, error.as_data()))
        if socket.patience.bad_frame(clock.now()):
            socket.close(CloseCode.BAD_FRAME, "too many frames that cannot be understood")

    async def _do(self, frame: messages.Frame, request: Any, session: Session, socket: Socket) -> None:
        if isinstance(request, messages.Ping):
            socket.send({"type": "pong", "re": frame.id, "data": {}} if frame.id is not None else _PONG)
        elif isinstance(request, messages.Ack):
            session.acked_seq = max(session.acked_seq, min(request.seq, session.sent_seq))
        elif not isinstance(request, messages.Pong):
            try:
                data = await self._requests.handlers[frame.type](session, request)
                socket.send(messages.reply(frame.id, data))
            except Exception as error:
                if not isinstance(error, SfuError):
                    log.exception("request_failed", type=frame.type, session_id=session.id)
                socket.send(messages.error(frame.id, to_client(error)))

    # Events

    def _view_event(self, session: Session, data: Any) -> dict[str, Any]:
        return {**data, "call": self._requests.view(session, data["call"])} if "call" in data else dict(data)

    def _delivered(self, session: Session, event: Event) -> None:
        if event.type == "call.incoming":
            self._hub.spawn(self._ring(event.data["call"]["id"], session))

    def _ring_if_pending(self, call: Call, session: Session) -> None:
        participant = call.participant(session.user_id)
        if participant is not None and participant.state in PENDING:
            self._hub.spawn(self._ring(call.id, session))

    async def _ring(self, call_id: str, session: Session) -> None:
        await self._calls.ring(call_id, session.user_id, session.id)

    # Closing

    async def drain(self) -> None:
        """Take no new sockets, and send everybody away to connect again."""
        self.is_draining = True
        for session in self._hub.all_sessions():
            if session.socket is not None:
                session.socket.close(CloseCode.RESTARTING, "the server restarts")


_PONG: dict[str, Any] = {"type": "pong", "data": {}}


def _token(request: web.Request, protocols: list[str]) -> str:
    """Return the token of a handshake: header, subprotocol or query; the first there is."""
    header = request.headers.get("Authorization", "")
    if header[:7].lower() == "bearer ":
        return header[7:].strip()
    for protocol in protocols:
        if protocol.startswith("bearer."):
            return protocol[7:]
    return request.query.get("token", "")
