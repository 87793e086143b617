"""The recordings that this process's recorder writes: each from its beginning to its end."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import structlog

from sfu import clock
from sfu.calls.call import Call
from sfu.calls.recorded import accepted
from sfu.calls.table import IN, Status
from sfu.errors import SfuError, Unavailable
from sfu.media.plane import MediaPlane
from sfu.recorder.book import Book
from sfu.recorder.policy import of_recording
from sfu.recorder.recorders import Recorders
from sfu.recorder.running import RecordingOutlet, Running, facts
from sfu.recorder.tap import RoomTap
from sfu.store.recordings import Document
from sfu.tasks import Tasks

log = structlog.get_logger()

# How long the recorder may take to make a folder, and to seal one.
OPEN_S = 10.0

# Something is published, and nothing was written for so long: somebody is told.
NO_BYTES_S = 4.0

# Who is told that a recording failed (its call, why), that one was sealed (the recording, what it is now),
# and of somebody who is not recorded and must be (his call, his id).
Failed = Callable[[str, str], Coroutine[Any, Any, None]]
Sealed = Callable[[Document, Mapping[str, Any]], Coroutine[Any, Any, None]]
Refused = Callable[[str, str], Coroutine[Any, Any, None]]


class Writing:
    """What is written now, by call."""

    def __init__(
        self,
        client: Recorders,
        book: Book,
        plane: MediaPlane,
        max_pause_s: float,
        *,
        failed: Failed,
        sealed: Sealed,
        refused: Refused,
    ) -> None:
        self.client, self._book, self._plane, self._max_pause_s = client, book, plane, max_pause_s
        self._tell_failed, self._tell_sealed, self._tell_refused = failed, sealed, refused
        self.by_call: dict[str, Running] = {}
        self._by_number: dict[int, Running] = {}
        self._numbers = 0
        self.tasks = Tasks("recording_work_failed")

    def close(self) -> None:
        """Have everything sealed that is under way."""
        for running in list(self.by_call.values()):
            if running.tap is not None:
                self._plane.unwatch(running.document["room"], running.tap)
                running.tap.close("server_stopped")

    # The life of one

    async def begin(self, call: Call, document: dict[str, Any]) -> None:
        """Write a call from now on; everybody is told before the first packet is taken.

        Raises:
            Unavailable: nobody can be told now.

        """
        assert call.recording is not None
        self._numbers += 1
        running = Running(self._numbers, call.id, document, RecordingOutlet(self.client, self._numbers))
        self.by_call[call.id] = self._by_number[running.number] = running
        running.began_at = running.written_at = clock.now()
        started = {"started_at": clock.timestamp(clock.wallclock()), "state": "starting"}
        document |= started
        try:
            # Nothing is kept of whom nobody could tell.
            await self._book.keep(call.id, document["id"], started)
            if not self.client.is_ready:
                await self._fail(running, "recorder_away")
            elif await self._open(running, call):
                await self._write(running, call)
        except BaseException:  # whatever it is: the recorder writes nothing that nobody knows of
            self._close_unopened(running)
            self._let_go(running)
            raise

    async def _write(self, running: Running, call: Call) -> None:
        """Take packets from now on."""
        running.tap = RoomTap(running.number, running.outlet, running.began_at)
        if (call.recording or {}).get("wanted") == "pause":
            self._pause(running, call.recording or {})
        if running.document.get("consent") == "require_ack":
            running.tap.take_only(frozenset())
            with contextlib.suppress(Unavailable):  # until somebody's answer is known, it is nobody's
                self._ask_all(running, await self._book.call(call.id))
        self._plane.watch(running.document["room"], running.tap)
        running.has_one = self.client.writers(running.number) < of_recording(running.document).recorders
        more = {"alarm": "one_recorder"} if running.has_one else {}
        await self._set(running, "paused" if running.tap.is_paused else "active", **more)

    async def _open(self, running: Running, call: Call) -> bool:
        """Have the recorder make the folder; tell whether it did."""
        document = running.document
        about = {n: document[n] for n in ("call_id", "room", "started_at", "by", "reason", "consent")}
        about |= {"recording_id": document["id"], "participants": call.user_ids, "call_type": call.call_type}
        wanted = of_recording(document).recorders
        self.client.send({"type": "open", "rec": running.number, "recorders": wanted, "about": about})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(OPEN_S):
                await running.opened.wait()
        if running.opened.is_set() and not running.failure:
            return True
        self._close_unopened(running)
        await self._fail(running, running.failure or "not_opened")
        return False

    def _close_unopened(self, running: Running) -> None:
        """Have what was opened, or will be, ended at once."""
        self.client.send({"type": "close", "rec": running.number, "reason": "not_opened", "t_ms": 0})

    async def steer(self, running: Running, call: Call) -> None:
        """Do what is wanted of a recording now."""
        if running.tap is None or running.document["state"] == "finishing":
            return
        recording = call.recording or {}
        wanted = recording.get("wanted", "record")
        if call.status is Status.ENDED or wanted == "stop":
            await self._finish(running, "call_ended" if call.status is Status.ENDED else "stopped")
            return
        self._ask_all(running, call)
        if wanted == "pause" and not running.tap.is_paused:
            self._pause(running, recording)
            await self._set(running, "paused")
        elif wanted == "record" and running.tap.is_paused:
            running.resume_at, running.written_at = None, clock.now()
            running.tap.resume({"by": recording.get("by", "")})
            await self._set(running, "active")

    def _pause(self, running: Running, told: Mapping[str, Any]) -> None:
        assert running.tap is not None
        running.tap.pause({"reason": told.get("reason", ""), "by": told.get("by", "")})
        running.resume_at = clock.now() + float(told.get("pause_s") or self._max_pause_s)

    async def _finish(self, running: Running, reason: str) -> None:
        assert running.tap is not None
        self._plane.unwatch(running.document["room"], running.tap)
        running.tap.close(reason)
        await self._set(running, "finishing")

    async def _set(self, running: Running, state: str, **more: Any) -> None:
        """Keep a state, and tell everybody in the call."""
        running.document |= {"state": state} | more
        await self._book.tell(running.call_id, running.document["id"], {"state": state} | more)

    def _let_go(self, running: Running) -> None:
        self.by_call.pop(running.call_id, None)
        self._by_number.pop(running.number, None)
        self.client.forget(running.number)
        if running.tap is not None:
            self._plane.unwatch(running.document["room"], running.tap)
            running.tap.detach()

    async def _fail(self, running: Running, code: str) -> None:
        log.error("recording_failed", recording_id=running.document["id"], call_id=running.call_id, code=code)
        self._let_go(running)
        await self._set(running, "failed", error=code)
        await self._tell_failed(running.call_id, code)

    async def _one_failed(self, running: Running, place: int, code: str) -> None:
        """One of two recorders failed: the other goes on, and everybody is told."""
        running.has_one = True
        if running.tap is not None:
            running.tap.event("recorder_lost", {"place": place, "code": code})
        await self._set_alarm(running)

    async def _set_alarm(self, running: Running) -> None:
        alarm = "no_bytes" if running.is_silent else ("one_recorder" if running.has_one else None)
        await self._set(running, running.document["state"], alarm=alarm)

    # Consent

    def _ask_all(self, running: Running, call: Call) -> None:
        """Where people must accept: take nothing of those who have not, and note what they say."""
        if running.document.get("consent") != "require_ack" or running.tap is None:
            return
        recording = call.recording or {}
        answers, now = dict(recording.get("answers", {})), clock.now()
        for user_id, answer in answers.items():
            if running.answers.get(user_id) != answer:
                running.tap.event("consent", {"user_id": user_id, "answer": answer})
        running.answers = answers
        running.tap.take_only(accepted(recording))
        there = [user_id for user_id in call.users_in(IN) if user_id not in accepted(recording)]
        for user_id in there:
            if user_id not in running.asked_at:
                running.tap.event("consent_asked", {"user_id": user_id})
        running.asked_at = {user_id: running.asked_at.get(user_id, now) for user_id in there}

    async def _look_for_consent(self, running: Running, now: float) -> None:
        """Where a recorder is required, nobody stays in the call who is not recorded."""
        policy = of_recording(running.document)
        if policy.required == "no":
            return
        for user_id, asked_at in list(running.asked_at.items()):
            has_declined = running.answers.get(user_id) is not None
            if has_declined or now - asked_at >= policy.consent_timeout_s:
                await self._tell_refused(running.call_id, user_id)
                running.asked_at.pop(user_id, None)

    # What the process that writes tells

    def receive(self, message: Mapping[str, Any]) -> None:
        """Take what it tells of one recording."""
        type_ = message["type"]
        running = self._by_number.get(message.get("rec", 0))
        if running is None:
            return
        if type_ == "opened":
            running.opened.set()
        elif type_ == "keyframe" and running.tap is not None:
            running.tap.keyframe_wanted(message["source"])
        elif type_ == "written":
            if message["bytes"] != running.bytes.get(message["place"]):
                running.bytes[message["place"]] = message["bytes"]
                running.written_at = clock.now()
        elif type_ == "sealed":
            self._let_go(running)
            told = facts(message["manifest"]) | {"place": message["place"]}
            self.tasks.spawn(self._tell_sealed(running.document, told))
        elif type_ == "one_failed":
            self.tasks.spawn(self._one_failed(running, message["place"], message["code"]))
        elif type_ == "failed":
            running.failure = message["code"]
            if running.opened.is_set():
                self.tasks.spawn(self._fail(running, message["code"]))
            running.opened.set()

    # Time

    async def tick(self, now: float) -> None:
        """Look at every recording; called once a second."""
        for running in list(self.by_call.values()):
            try:
                await self._look(running, now)
            except SfuError as error:
                log.warning("recording_not_told", call_id=running.call_id, error=error.message)
            except Exception:
                log.exception("recording_watch_failed", call_id=running.call_id)

    async def _look(self, running: Running, now: float) -> None:
        tap = running.tap
        if tap is None:
            return
        tap.tick()
        await self._look_for_consent(running, now)
        if running.resume_at is not None and now >= running.resume_at:
            changes = {"wanted": "record", "by": "timer", "reason": ""}
            await self._book.record(running.call_id, running.document["id"], changes)
            running.resume_at = None
        is_silent = tap.is_receiving and not tap.is_paused and now - running.written_at > NO_BYTES_S
        if is_silent != running.is_silent:
            running.is_silent = is_silent
            if is_silent:
                log.error("recording_without_bytes", call_id=running.call_id)
            await self._set_alarm(running)
