"""Which calls are recorded, and how their recordings stand.

What is wanted stands in the call itself (`call.recording.wanted`), so whoever may ask asks any process; the
process that forwards the call's media sees it and acts. Everybody in the call is told of each state, of
`starting` before the first packet is kept.
"""

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from sfu import clock, ids
from sfu.calls import recorded
from sfu.calls.call import Call
from sfu.calls.recorded import RECORDING
from sfu.calls.service import CallService
from sfu.calls.table import IN, Status
from sfu.errors import Conflict, InvalidState, NotAllowed, NotFound, SfuError, Unavailable
from sfu.media.plane import MediaPlane
from sfu.recorder.book import Book
from sfu.recorder.evidence import signing_key
from sfu.recorder.files import RecordingFiles
from sfu.recorder.keeping import Keeping
from sfu.recorder.policies import Policies
from sfu.recorder.policy import FIELDS, keep_until
from sfu.recorder.recorders import Recorders
from sfu.recorder.running import facts, has_unsealed, manifest_in, sealed_in
from sfu.recorder.tickets import TicketOffice
from sfu.recorder.writing import OPEN_S, Writing
from sfu.settings import Recorder, RecordingPolicy
from sfu.store.recordings import Document, RecordingStore, Wanted
from sfu.tasks import end

log = structlog.get_logger()

TICK_S = 1.0

# How often it is looked for recordings that a recorder sealed after its server was gone.
SEALED_S = 15.0

# Of two recorders that a crash cut off, one is given so long to seal its part.
OTHER_S = 60.0

# Why a recording does not begin that need not: there is one, or the call is over.
_NO_TROUBLE = frozenset({"already_recording", "invalid_state"})

_ACTIONS = {"start": "record", "resume": "record", "pause": "pause", "stop": "stop"}


class Recordings:
    """All recordings of this process's calls."""

    def __init__(
        self,
        settings: Recorder,
        store: RecordingStore,
        calls: CallService,
        plane: MediaPlane,
        process_id: str,
    ) -> None:
        self._settings, self._calls, self._process_id = settings, calls, process_id
        root = Path(settings.path)
        self._key = Path(settings.signing_key_file) if settings.signing_key_file else root / "signing.pem"
        self.files = RecordingFiles(settings)
        self.client = Recorders(self.files.roots, self._key, self._receive, self._recorder_lost)
        self.book = Book(store, calls)
        self.keeping = Keeping(self.files, self._key, self.book, self.client, settings.timestamp_url)
        self._writing = Writing(
            self.client,
            self.book,
            plane,
            settings.max_pause_s,
            failed=self._failed,
            sealed=self.keeping.sealed,
            refused=self._refused,
        )
        self._tasks = self._writing.tasks
        self.policies = Policies(settings, calls)
        # The newest account of calls that are to be looked at, and those that are looked at now.
        self._newest: dict[str, Call] = {}
        self._settling: set[str] = set()
        # Calls that are to end because they are not recorded.
        self._to_fail: set[str] = set()
        # What recorders sealed when they came up, until that is told; calls that they were not there for.
        self._sealed_before: set[str] = set()
        self._interrupted: set[str] = set()
        self._began_at = clock.now()
        # One at a time looks after those, or a call would be asked for twice.
        self._taking_up = asyncio.Lock()
        self._ticker: asyncio.Task[None] | None = None
        calls.may_ring = self._may_ring
        if self.is_on:
            calls.on_changed(self.call_changed)
            calls.may_answer = self._may_answer

    @property
    def is_on(self) -> bool:
        """Whether anything can be recorded."""
        return bool(self._settings.path)

    @functools.cached_property
    def tickets(self) -> TicketOffice:
        """Whoever may read by a URL alone.

        Raises:
            NotFound: nothing is recorded here.

        """
        if not self.is_on:
            raise NotFound("There are no recordings here.", code="recording_not_found")
        return TicketOffice(signing_key(self._key))

    async def note(self, recording_id: str, action: str, user_id: str, detail: Document) -> None:
        """Add to the audit trail of a recording.

        Raises:
            Unavailable: the database does not answer.

        """
        at = clock.timestamp(clock.wallclock())
        await self.book.store.note(recording_id, at=at, action=action, user_id=user_id, detail=detail)
        log.info("recording_" + action, recording_id=recording_id, user_id=user_id, **detail)

    def public_key(self) -> Ed25519PublicKey:
        """Return the key that recordings of this server are signed with; reads a file."""
        return signing_key(self._key).public_key()

    async def start(self) -> None:
        """Start the process that writes; it seals what a former one left.

        Raises:
            Unavailable: it does not start.

        """
        if self.is_on:
            try:
                await asyncio.to_thread(self._prepare)
            except (OSError, ValueError) as error:
                raise Unavailable(str(error), code="recorder_away") from error
            self._began_at = clock.now()
            await self.client.start()
            self._sealed_before |= await asyncio.to_thread(sealed_in, self.files.roots)
            await self._tell_of_sealed()
            self._ticker = asyncio.create_task(self._tick())

    def _prepare(self) -> None:
        failures = []
        for place in self.files.roots:
            try:
                place.mkdir(parents=True, exist_ok=True)
            except OSError as error:  # of two disks one may be away
                failures.append(error)
                log.error("recorder_without_disk", path=str(place), error=str(error))
        if len(failures) == len(self.files.roots):
            raise failures[0]
        signing_key(self._key)
        self.files.prepare()

    async def close(self) -> None:
        """Seal everything that is under way."""
        if not self.is_on:
            return
        if self._ticker is not None:
            await end(self._ticker)
        self._writing.close()
        await self.client.close()
        await self._tasks.finish(OPEN_S)
        await self.keeping.close()

    # Before a call

    async def _may_ring(self, conversation_id: str | None, call_type: str) -> None:
        if self.client.is_ready or not (self.is_on or conversation_id):
            return
        policy = await self.policies.for_new(conversation_id, call_type)
        # Where there will never be a recorder nothing rings that needs one later.
        moment = "before_ring" if self.is_on or policy.required == "no" else policy.required
        self._refuse_unless(policy, moment)

    async def _may_answer(self, call_id: str) -> None:
        if not self.client.is_ready:
            self._refuse_unless(await self.policies.of(await self._calls.get(call_id)), "before_answer")

    @staticmethod
    def _refuse_unless(policy: RecordingPolicy, moment: str) -> None:
        if policy.required == moment:
            raise Unavailable("There is no recorder, and no call without one.", code="recorder_away")

    # Asking

    async def ask(self, call_id: str, action: str, *, by: str, reason: str, seconds: float | None) -> Call:
        """Start, pause, resume or stop the recording of a call, or say whether one may be recorded.

        Raises:
            NotAllowed: nothing is recorded here.
            InvalidState: there is nothing to pause, resume or stop.
            Conflict: it is recorded already.

        """
        if action in ("accept", "decline"):
            return await self._calls.consent(call_id, by, accepts=action == "accept")
        call = await self._calls.get(call_id)
        if not self.is_on or (await self.policies.of(call)).mode == "off":
            raise NotAllowed("Calls are not recorded here.", code="recording_off")
        if action == "start":
            if not self.client.is_ready:
                raise Unavailable("There is no recorder.", code="recorder_away")
            return await self._request(call, by, reason)
        recording = dict(call.recording or {})
        if recording.get("state") not in RECORDING or recording["state"] == "finishing":
            raise InvalidState("This call is not recorded.", code="not_recording")
        if recording["state"] == "requested":
            if action == "stop" and (await self.policies.of(call)).required == "no":
                return await self._take_back(call, "taken_back")
            raise InvalidState("The recording has not begun.", code="not_recording")
        if action == "stop" and (await self.policies.of(call)).required != "no":
            raise Conflict("This call must be recorded as long as it goes on.", code="recording_required")
        told: dict[str, Any] = {"wanted": _ACTIONS[action], "reason": reason, "by": by}
        if action == "pause":
            told["pause_s"] = min(seconds or self._settings.max_pause_s, self._settings.max_pause_s)
        return await self.book.record(call_id, recording["id"], told)

    async def _take_back(self, call: Call, why: str) -> Call:
        """A recording that was asked for and never began."""
        assert call.recording is not None
        return await self.book.keep(call.id, call.recording["id"], {"state": "failed", "error": why})

    async def _request(
        self, call: Call, by: str, reason: str, wanted: Mapping[str, Any] | None = None
    ) -> Call:
        policy, at = await self.policies.of(call), clock.wallclock()
        until = keep_until(policy, at)
        document: dict[str, Any] = {
            "id": ids.recording_id(),
            "call_id": call.id,
            "room": call.room_name,
            "state": "requested",
            "consent": policy.consent,
            "policy": {name: getattr(policy, name) for name in sorted(FIELDS)},
            "created_at": clock.timestamp(at),
            "keep_until": clock.timestamp(until) if until else None,
            "by": by,
            "reason": reason,
            "user_ids": call.user_ids,
        }
        await self.book.store.put(document)
        names = ("id", "state", "consent", "by", "reason")
        asked = {n: document[n] for n in names} | dict(wanted or {"wanted": "record"})
        try:
            return await self._calls.change(call.id, functools.partial(recorded.ask, recording=asked))
        except (Conflict, InvalidState) as error:
            await self.book.store.change(document["id"], {"state": "failed", "error": error.code})
            raise

    # What calls do

    async def call_changed(self, call: Call) -> None:
        """Look whether something is to be done for a call."""
        if call.status is not Status.RINGING or call.id in self._writing.by_call:
            self._newest[call.id] = call
            if call.id not in self._settling:
                self._settling.add(call.id)
                self._tasks.spawn(self._settle(call.id))

    async def _settle(self, call_id: str) -> None:
        """Bring the recording of a call to where it is wanted, until nothing is to be done."""
        call = None
        try:
            while (call := self._newest.pop(call_id, None)) is not None:
                await self._step(call)
        except Unavailable as error:
            log.warning("recording_not_settled", call_id=call_id, error=error.message)
            if call is not None:
                self._newest.setdefault(call_id, call)  # it is tried again with the next tick
        except SfuError as error:
            log.warning("recording_not_wanted", call_id=call_id, error=error.message)
            if error.code not in _NO_TROUBLE:
                await self._end_if_required(call_id)
        except Exception:
            log.exception("recording_not_begun", call_id=call_id)
            await self._end_if_required(call_id)
        finally:
            self._settling.discard(call_id)

    async def _step(self, call: Call) -> None:
        running, recording = self._writing.by_call.get(call.id), call.recording
        if running is not None:
            await self._writing.steer(running, call)
        elif call.status is Status.ENDED:
            if recording is not None and recording["state"] == "requested":
                await self._take_back(call, "call_ended")
        elif call.status is not Status.ACTIVE or not self._is_ours(call):
            return
        elif recording is None:
            if (await self.policies.of(call)).mode == "always":
                await self._begin_by_policy(call)
        elif recording["state"] == "requested":
            await self._writing.begin(call, dict(await self.book.get(recording["id"])))

    async def _begin_by_policy(self, call: Call) -> None:
        if self.client.is_ready:
            await self._request(call, "policy", "")
        else:
            self._interrupted.add(call.id)
            log.error("call_not_recorded", call_id=call.id, code="recorder_away")
            await self._end_if_required(call.id)

    def _is_ours(self, call: Call) -> bool:
        """Whether this process forwards the media of a call: that of its first device."""
        devices = [device for p in call.participants if p.state in IN for device in p.devices]
        homes = [home for device in devices if (home := ids.process_of(device))]
        return not homes or homes[0] == self._process_id

    # What becomes of them

    async def _failed(self, call_id: str, code: str) -> None:
        if code in ("recorder_away", "recorder_gone"):
            self._interrupted.add(call_id)
        await self._end_if_required(call_id)

    async def _end_if_required(self, call_id: str) -> None:
        try:
            if (await self.policies.of(await self._calls.get(call_id))).required != "no":
                await self._calls.fail(call_id, "recording_failed")
            self._to_fail.discard(call_id)
        except NotFound:
            self._to_fail.discard(call_id)
        except Unavailable:
            self._to_fail.add(call_id)

    async def _refused(self, call_id: str, user_id: str) -> None:
        """Somebody does not accept to be recorded, in a call that must be: he leaves it."""
        log.warning("recording_declined", call_id=call_id, user_id=user_id)
        await self._calls.leave(call_id, user_id)

    def _receive(self, message: dict[str, Any]) -> None:
        type_ = message["type"]
        if type_ == "recovered":
            self._sealed_before.add(message["id"])
        elif type_ == "ready":
            self._tasks.spawn(self._come_back())
        elif type_.startswith("archiv"):
            self.keeping.receive(message, clock.now())
        else:
            self._writing.receive(message)

    def _recorder_lost(self) -> None:
        self.keeping.lost(clock.now())

    # After a crash

    async def _come_back(self) -> None:
        """A recorder is back: tell what it sealed, and go on with calls that it was not there for."""
        await self._take_up()
        with contextlib.suppress(Unavailable):  # it is tried again with the next tick
            await self._begin_again()

    async def _take_up(self) -> None:
        """Tell what was sealed without its server; what cannot be told now stays to be told."""
        for recording_id in list(self._sealed_before):
            try:
                async with self._taking_up:
                    if await self._recovered(recording_id):
                        self._sealed_before.discard(recording_id)
            except Unavailable as error:
                log.warning("recording_not_told", recording_id=recording_id, error=error.message)
                return
            except SfuError as error:
                log.warning("recording_not_told", recording_id=recording_id, error=error.message)
                self._sealed_before.discard(recording_id)

    async def _begin_again(self) -> None:
        async with self._taking_up:
            for call_id in list(self._interrupted):
                await self._begin_again_in(call_id)

    async def _begin_again_in(self, call_id: str) -> None:
        """Ask for the recording of a call again, if it is still wanted; it stays to be done until it is."""
        try:
            call = await self._calls.get(call_id)
        except NotFound:
            self._interrupted.discard(call_id)
            return
        is_wanted = (await self.policies.of(call)).mode == "always"
        before = call.recording or {"wanted": "record" if is_wanted else "stop"}
        is_open = call.status is Status.ACTIVE and self._is_ours(call)
        goes_on = is_open and call_id not in self._writing.by_call
        if goes_on and before.get("state") in RECORDING:
            return  # it is about to begin, or not kept yet that it failed
        if goes_on and before.get("wanted") in ("record", "pause"):
            await self._request_again(call, before)
        self._interrupted.discard(call_id)

    async def _request_again(self, call: Call, before: Mapping[str, Any]) -> None:
        wanted = {name: before[name] for name in ("wanted", "pause_s") if name in before}
        with contextlib.suppress(Conflict, InvalidState):  # somebody else was first, or it has ended
            await self._request(call, "policy", "the recorder was started again", wanted)

    async def _recovered(self, recording_id: str) -> bool:
        """A recording that a crash cut off was sealed; its call is recorded anew if it goes on.

        False: another recorder has not sealed its part yet, which may be the longer one.
        """
        document = await self.book.store.get(recording_id)
        if document is None:
            log.warning("unknown_recording_sealed", recording_id=recording_id)
            return True
        if document["state"] in ("sealed", "uploading", "erasing", "erased"):
            return True
        running = self._writing.by_call.get(document["call_id"])
        if running is not None and running.document["id"] == recording_id:
            return True  # the other recorder writes on
        is_waited_for = clock.now() - self._began_at < OTHER_S
        if is_waited_for and await asyncio.to_thread(has_unsealed, self.files.roots, recording_id):
            return False
        manifest = await asyncio.to_thread(manifest_in, self.files.roots, recording_id)
        if manifest is None:
            return True
        await self.keeping.sealed(document, facts(manifest) | {"place": manifest["place"]})
        with contextlib.suppress(NotFound):
            call = await self._calls.get(document["call_id"])
            before = call.recording or {}
            is_wanted = before.get("id") == recording_id and before.get("wanted") in ("record", "pause")
            if call.status is Status.ACTIVE and is_wanted and self._is_ours(call):
                await self._request_again(call, before)
        return True

    # Time

    async def _tell_of_sealed(self) -> None:
        """Tell of recordings that the recorder of a server that is gone sealed by itself."""
        for state in ("starting", "active", "paused", "finishing"):
            for document in await self.book.store.find(Wanted(state=state)):
                running = self._writing.by_call.get(document["call_id"])
                if running is not None and running.document["id"] == document["id"]:
                    continue
                if await asyncio.to_thread(manifest_in, self.files.roots, document["id"]) is not None:
                    self._sealed_before.add(document["id"])
        await self._take_up()

    async def _tick(self) -> None:
        look_at = clock.now() + SEALED_S
        while True:
            await asyncio.sleep(TICK_S)
            now = clock.now()
            await self._do(self._try_again())
            if now >= look_at:
                look_at = now + SEALED_S
                await self._do(self._tell_of_sealed())
            await self._do(self.keeping.tick(now))
            self.client.tick(now)
            await self._writing.tick(now)

    @staticmethod
    async def _do(work: Awaitable[None]) -> None:
        """Let no trouble with one thing keep the others from being done."""
        try:
            await work
        except SfuError as error:
            log.warning("recordings_not_told", error=error.message)
        except Exception:
            log.exception("recordings_watch_failed")

    async def _try_again(self) -> None:
        """Do what could not be done while the store was away."""
        await self.book.try_again()
        if self._sealed_before:
            await self._take_up()
        for call_id in list(self._to_fail):
            await self._end_if_required(call_id)
        if self.client.is_ready:
            await self._begin_again()
        for call in [call for call_id, call in self._newest.items() if call_id not in self._settling]:
            await self.call_changed(call)
