"""Who is here: sessions by user, their presence, and the events that reach them."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

import structlog

from sfu import ids
from sfu.auth import Identity
from sfu.errors import NotAllowed
from sfu.signaling import messages
from sfu.signaling.session import CloseCode, Session, Socket
from sfu.tasks import Tasks

log = structlog.get_logger()

# A session whose media still flows is kept; it is looked at again so often.
RECHECK_S = 5.0

# Names of users remembered after they left, to put them on calls.
MAX_NAMES = 100_000


class Event(Protocol):
    """A durable event, as a store gives it."""

    @property
    def user_id(self) -> str: ...
    @property
    def seq(self) -> int: ...
    @property
    def type(self) -> str: ...
    @property
    def data(self) -> Any: ...
    @property
    def not_for(self) -> str | None: ...


class EventLog(Protocol):
    """Where durable events are read again."""

    async def events_after(self, user_id: str, seq: int) -> list[Any] | None:
        """Return a user's later events in order; None if some are gone."""

    async def last_seq(self, user_id: str) -> int:
        """Return the number of the last one."""


class Hub:
    """All sessions of this process."""

    def __init__(
        self, log_: EventLog, resume_window_s: float, *, directory: bool, process_id: str = ""
    ) -> None:
        self._log, self._resume_window_s, self._directory = log_, resume_window_s, directory
        # Stands in the id of each session, so that others know where it was.
        self._process_id = process_id
        self._by_user: dict[str, dict[str, Session]] = {}
        self._by_resume_token: dict[str, Session] = {}
        # By id, those who watch somebody. Of thousands who come at once few do.
        self._watchers: dict[str, Session] = {}
        self._names: dict[str, str] = {}
        self._tasks = Tasks("background_work_failed")
        # Called with a session that will not come back.
        self.on_expired: Callable[[Session], Awaitable[None]] | None = None
        # Called after a ringing event went to a socket: (session, call).
        self.on_delivered: Callable[[Session, Event], None] | None = None
        # Makes of a durable event's data what one session reads.
        self.view: Callable[[Session, Any], dict[str, Any]] = lambda _session, data: dict(data)

    # Sessions

    def name_of(self, user_id: str) -> str:
        """Return a user's name as his last token told it, else his id."""
        return self._names.get(user_id, user_id)

    def sessions(self, user_id: str) -> list[Session]:
        return list(self._by_user.get(user_id, {}).values())

    def all_sessions(self) -> list[Session]:
        return [session for sessions in self._by_user.values() for session in sessions.values()]

    def open(self, identity: Identity, url: str) -> Session:
        """Begin a session."""
        session = Session(ids.session_id(self._process_id), identity, ids.resume_token(), url)
        self._by_user.setdefault(identity.user_id, {})[session.id] = session
        self._by_resume_token[session.resume_token] = session
        self._names.pop(identity.user_id, None)
        self._names[identity.user_id] = identity.name
        if len(self._names) > MAX_NAMES:
            del self._names[next(iter(self._names))]
        return session

    def resumable(self, token: str, user_id: str) -> Session | None:
        """Return the session of a resume token, if it is this user's."""
        session = self._by_resume_token.get(token)
        return session if session is not None and session.user_id == user_id else None

    def attach(self, session: Session, socket: Socket) -> None:
        """Give a session its socket; an older one is closed."""
        was_online = self.is_online(session.user_id)
        if session.socket is not None:
            session.socket.close(CloseCode.REPLACED, "the session was resumed elsewhere")
        session.socket = socket
        # It may have expired while its socket waited for the store: deaf it would be of no use.
        self._by_user.setdefault(session.user_id, {})[session.id] = session
        self._by_resume_token[session.resume_token] = session
        if session.watching:
            self._watchers[session.id] = session
        if session.expiry is not None:
            session.expiry.cancel()
            session.expiry = None
        if not was_online:
            self._presence_changed(session.user_id, online=True)

    def detach(self, session: Session, socket: Socket, *, for_good: bool) -> None:
        """The socket of a session is gone; the session waits, unless it said goodbye."""
        if session.socket is not socket:
            return
        session.socket = None
        if not self.is_online(session.user_id):
            self._presence_changed(session.user_id, online=False)
        delay = 0.0 if for_good else self._resume_window_s
        session.expiry = asyncio.get_running_loop().call_later(delay, self._look_at, session, for_good)

    def _look_at(self, session: Session, for_good: bool = False) -> None:
        if session.peer_id is not None and not for_good:  # its media flows: it is not gone
            session.expiry = asyncio.get_running_loop().call_later(RECHECK_S, self._look_at, session)
            return
        self.spawn(self._expire(session))

    async def _expire(self, session: Session) -> None:
        if session.socket is not None:  # it came back in the same moment
            return
        session.expiry = None  # which knows the session
        sessions = self._by_user.get(session.user_id, {})
        sessions.pop(session.id, None)
        if not sessions:
            self._by_user.pop(session.user_id, None)
        self._by_resume_token.pop(session.resume_token, None)
        self._watchers.pop(session.id, None)
        if self.on_expired is not None:
            await self.on_expired(session)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside, owned by the hub; a failure is logged."""
        self._tasks.spawn(work)

    async def close(self) -> None:
        """Forget everybody; the sockets have been closed before."""
        for session in self.all_sessions():
            if session.expiry is not None:
                session.expiry.cancel()
        self._by_user.clear()
        self._by_resume_token.clear()
        self._watchers.clear()
        await self._tasks.cancel()

    # Events

    async def receive(self, event: Event) -> None:
        """Take a durable event from the bus to the sockets of its user."""
        for session in self.sessions(event.user_id):
            if not session.is_online or event.seq <= session.sent_seq:
                continue
            if event.seq == session.sent_seq + 1:
                self._deliver(session, event)
            else:
                await self.catch_up(session)

    async def catch_up(self, session: Session) -> bool:
        """Send what the log has beyond what was sent; False if some of it is gone."""
        events = await self._log.events_after(session.user_id, session.sent_seq)
        if events is None:
            session.sent_seq = await self._log.last_seq(session.user_id)
            return False
        for event in events:
            if event.seq == session.sent_seq + 1:
                self._deliver(session, event)
        return True

    async def catch_up_all(self) -> None:
        """Send every session what it may have missed: the way on which events come was cut."""
        for session in self.all_sessions():
            if session.is_online:
                await self.catch_up(session)

    def _deliver(self, session: Session, event: Event) -> None:
        session.sent_seq = event.seq
        if event.not_for == session.id:
            return
        session.send(messages.event(event.type, self.view(session, event.data), event.seq))
        if self.on_delivered is not None:
            self.on_delivered(session, event)

    # Presence

    def is_online(self, user_id: str) -> bool:
        return any(session.is_online for session in self.sessions(user_id))

    def watch(self, session: Session, user_ids: list[str]) -> dict[str, Any]:
        """Set whose presence a session watches; return who of them is online."""
        everybody = "*" in user_ids
        if everybody and not self._directory:
            raise NotAllowed("This server does not list everybody; name the users.")
        session.watching = set(user_ids)
        self._watchers.pop(session.id, None)
        if session.watching:
            self._watchers[session.id] = session
        users = self._by_user if everybody else user_ids
        online = sorted(user_id for user_id in users if user_id != "*" and self.is_online(user_id))
        return {"online": online, "people": [{"user_id": u, "name": self.name_of(u)} for u in online]}

    def _presence_changed(self, user_id: str, *, online: bool) -> None:
        data = {"user_id": user_id, "name": self.name_of(user_id), "online": online}
        for session in list(self._watchers.values()):
            if session.user_id != user_id and (user_id in session.watching or "*" in session.watching):
                session.send(messages.event("presence.changed", data))
