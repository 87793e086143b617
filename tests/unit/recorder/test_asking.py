"""What is wanted of a recording and how it stands are in the call: nobody overwrites what another said."""

from datetime import UTC, datetime

import pytest

from sfu.calls import call as acts, recorded
from sfu.calls.call import Call, Participant
from sfu.calls.recorded import RECORDING
from sfu.calls.table import State, Status
from sfu.errors import Conflict, InvalidState, NotFound, Unavailable
from sfu.settings import Recorder, Settings, SettingsError, load

AT = datetime(2026, 1, 1, tzinfo=UTC)
ASKED = {"id": "rec_1", "state": "requested", "consent": "notify", "wanted": "record"}


def running(recording=None):
    people = (Participant("a", "A", State.JOINED), Participant("b", "B", State.JOINED))
    return Call("call_1", "voice", Status.ACTIVE, "a", people, AT, answered_at=AT, recording=recording)


def test_everybody_in_the_call_is_told():
    change = recorded.ask(running(), ASKED)
    (event,) = change.events
    assert (event.type, event.to) == ("call.recording", ("a", "b"))
    assert event.data == {"state": "requested", "consent": "notify", "recording": ASKED}
    assert change.call.recording == ASKED


@pytest.mark.parametrize("state", sorted(RECORDING))
def test_of_two_who_ask_at_once_one_is_refused(state):
    with pytest.raises(Conflict) as refused:
        recorded.ask(running({**ASKED, "state": state}), {**ASKED, "id": "rec_2"})
    assert refused.value.code == "already_recording"


@pytest.mark.parametrize("state", ["sealed", "failed"])
def test_one_that_is_over_may_be_followed_by_another(state):
    change = recorded.ask(running({**ASKED, "state": state}), {**ASKED, "id": "rec_2"})
    assert change.call.recording["id"] == "rec_2"


def test_a_call_that_ended_is_not_recorded():
    ended = acts.end(running(), "a", AT).call
    with pytest.raises(InvalidState):
        recorded.ask(ended, ASKED)


def test_a_pause_survives_what_the_recorder_tells_at_the_same_time():
    """Each says what it knows; neither takes back what the other said."""
    call = running({**ASKED, "state": "starting"})
    call = recorded.record(call, "rec_1", {"wanted": "pause", "pause_s": 60}).call
    call = recorded.record(call, "rec_1", {"state": "active"}).call
    assert call.recording == {**ASKED, "state": "active", "wanted": "pause", "pause_s": 60}


def test_what_is_told_late_of_an_older_recording_changes_nothing():
    call = running({**ASKED, "id": "rec_2", "state": "active"})
    assert recorded.record(call, "rec_1", {"state": "sealed"}).events == ()
    assert recorded.record(running(), "rec_1", {"state": "sealed"}).events == ()
    assert recorded.record(call, "rec_2", {"state": "active"}).events == ()


@pytest.mark.parametrize("status", ["ringing", "active"])
def test_a_call_that_cannot_be_recorded_ends_for_everybody(status):
    call = (
        running()
        if status == "active"
        else acts.initiate(
            Call("c", "voice", Status.RINGING, "a", (Participant("a", "A"), Participant("b", "B")), AT),
            frozenset(),
        ).call
    )
    ended = acts.fail(call, "recording_failed", AT)
    assert (ended.call.status, ended.call.end_reason) == (Status.ENDED, "recording_failed")
    assert ended.events[-1].to == ("a", "b")
    assert acts.fail(ended.call, "recording_failed", AT).events == ()


@pytest.mark.parametrize("required", ["before_ring", "before_answer", "during"])
@pytest.mark.parametrize(
    "rest", [{}, {"path": "/x"}, {"mode": "always"}, {"path": "/x", "mode": "on_request"}]
)
def test_what_must_be_recorded_and_cannot_is_no_setting(tmp_path, required, rest):
    """A server that let calls go unrecorded which must not would be worse than none."""
    lines = [f'{name} = "{value}"' for name, value in {"required": required, **rest}.items()]
    file = tmp_path / "sfu.toml"
    file.write_text("\n".join(["[recorder]", *lines]))
    with pytest.raises(SettingsError, match="required wants"):
        load(file)
    assert (
        Settings(recorder=Recorder(path="/x", mode="always", required=required)).recorder.required == required
    )


class Calls:
    """The service of calls, as the recordings see it, with a store that may be away."""

    def __init__(self, call):
        self.call, self.is_away = call, False
        self.may_ring = self.may_answer = None

    def on_changed(self, changed):
        pass

    def _there(self):
        if self.is_away:
            raise Unavailable("the store is away")

    async def get(self, call_id):
        return self.call

    async def change(self, call_id, act):
        self._there()
        self.call = act(self.call).call
        return self.call

    async def fail(self, call_id, reason):
        self._there()
        self.call = acts.fail(self.call, reason, AT).call
        return self.call


async def test_what_could_not_be_told_while_the_store_was_away_is_told_when_it_is_back():
    """The recording failed meanwhile, and the call must not go on without."""
    from sfu.recorder.running import RecordingOutlet, Running
    from sfu.recorder.service import Recordings
    from sfu.store.recordings import MemoryRecordings

    class Store(MemoryRecordings):
        async def change(self, recording_id, changes, *, unless=()):
            calls._there()
            return await super().change(recording_id, changes, unless=unless)

    calls, store = Calls(running({**ASKED, "state": "active"})), Store()
    settings = Recorder(path="/x", mode="always", required="during")
    recordings = Recordings(settings, store, calls, None, "p1")
    document = {"id": "rec_1", "call_id": "call_1", "room": "call_1", "state": "active", "created_at": "2026"}
    await store.put(document)
    writing = recordings._writing
    going = Running(1, "call_1", document, RecordingOutlet(recordings.client, 1))
    writing.by_call["call_1"] = writing._by_number[1] = going
    calls.is_away = True
    await writing._fail(going, "ENOSPC")
    assert calls.call.recording["state"] == "active"
    assert writing.by_call == {}
    with pytest.raises(Unavailable):
        await recordings._try_again()
    calls.is_away = False
    await recordings._try_again()
    assert (calls.call.recording["state"], calls.call.recording["error"]) == ("failed", "ENOSPC")
    assert (await store.get("rec_1"))["state"] == "failed"
    assert calls.call.end_reason == "recording_failed"
    await recordings._try_again()  # nothing is left to be told


class Writer:
    """A recorder that is there or not; it opens what it is asked to."""

    def __init__(self):
        self.is_ready, self.opened, self.dropped = True, [], {}

    def send(self, message):
        self.opened.append(message["about"]["recording_id"])

    def forget(self, number):
        pass


async def settled(recordings):
    """Do all that is to be done for the call as it is now."""
    await recordings.call_changed(recordings._calls.call)
    await recordings._tasks.finish(1)


@pytest.mark.parametrize("wanted", ["record", "pause"])
async def test_a_recording_that_the_recorder_was_not_there_for_begins_when_it_is_back(wanted):
    """It was killed when nothing of the recording was on the disk yet: nobody but the server knows of it."""
    from sfu.recorder.service import Recordings
    from sfu.store.recordings import MemoryRecordings

    asked = {**ASKED, "wanted": wanted}
    calls, store = Calls(running(asked)), MemoryRecordings()
    await store.put({"id": "rec_1", "call_id": "call_1", "room": "call_1", "state": "requested"})
    recordings = Recordings(Recorder(path="/x", mode="on_request"), store, calls, None, "p1")
    recordings.client = recordings._writing.client = client = Writer()
    client.is_ready = False
    await settled(recordings)
    assert (calls.call.recording["state"], calls.call.recording["error"]) == ("failed", "recorder_away")
    await recordings._try_again()
    assert calls.call.recording["id"] == "rec_1"
    client.is_ready = True
    recordings._receive({"type": "ready"})
    await recordings._tasks.finish(1)
    again = calls.call.recording
    assert again["id"] != "rec_1"
    assert (again["state"], again["wanted"]) == ("requested", wanted)
    await recordings._try_again()
    assert calls.call.recording == again, "it is asked for once"


async def test_what_nobody_wanted_any_more_does_not_begin_when_the_recorder_is_back():
    from sfu.recorder.service import Recordings
    from sfu.store.recordings import MemoryRecordings

    calls, store = Calls(running({**ASKED, "wanted": "stop"})), MemoryRecordings()
    await store.put({"id": "rec_1", "call_id": "call_1", "room": "call_1", "state": "requested"})
    recordings = Recordings(Recorder(path="/x", mode="on_request"), store, calls, None, "p1")
    recordings.client = recordings._writing.client = client = Writer()
    client.is_ready = False
    await settled(recordings)
    client.is_ready = True
    recordings._receive({"type": "ready"})
    await recordings._tasks.finish(1)
    assert calls.call.recording["id"] == "rec_1"
    assert calls.call.recording["state"] == "failed"


async def test_a_recording_that_could_not_be_asked_for_again_stays_to_be_done():
    """The store went away in the moment in which the recorder was back."""
    from sfu.recorder.service import Recordings
    from sfu.store.recordings import MemoryRecordings

    class Store(MemoryRecordings):
        async def put(self, document):
            calls._there()
            await super().put(document)

    calls, store = Calls(running(ASKED)), Store()
    await store.put({"id": "rec_1", "call_id": "call_1", "room": "call_1", "state": "requested"})
    recordings = Recordings(Recorder(path="/x", mode="on_request"), store, calls, None, "p1")
    recordings.client = recordings._writing.client = client = Writer()
    client.is_ready = False
    await settled(recordings)
    client.is_ready = calls.is_away = True
    recordings._receive({"type": "ready"})
    await recordings._tasks.finish(1)
    assert calls.call.recording["id"] == "rec_1"
    calls.is_away = False
    await recordings._try_again()
    assert (calls.call.recording["id"] == "rec_1", calls.call.recording["state"]) == (False, "requested")


async def test_what_is_to_be_told_of_no_call_does_not_keep_the_rest():
    from sfu.recorder.service import Recordings
    from sfu.store.recordings import MemoryRecordings

    class GoneCalls(Calls):
        async def change(self, call_id, act):
            if call_id == "call_0":
                raise NotFound("There is no such call.")
            return await super().change(call_id, act)

    calls = GoneCalls(running({**ASKED, "state": "active"}))
    recordings = Recordings(Recorder(path="/x", mode="always"), MemoryRecordings(), calls, None, "p1")
    for number in (0, 1):
        recordings.book._untold[f"rec_{number}"] = (f"call_{number}", {"state": "sealed"})
    await recordings._try_again()
    assert calls.call.recording["state"] == "sealed"
    assert recordings.book._untold == {}


async def test_a_recording_that_cannot_begin_leaves_nothing_and_ends_the_call_that_needs_it():
    """Whatever goes wrong: nobody takes it for one that is written."""
    from sfu.recorder.service import Recordings
    from sfu.store.recordings import MemoryRecordings

    class Store(MemoryRecordings):
        async def change(self, recording_id, changes, *, unless=()):
            raise Conflict("Somebody else was first.")

    calls, store = Calls(running(ASKED)), Store()
    await store.put(
        {"id": "rec_1", "call_id": "call_1", "room": "call_1", "state": "requested", "created_at": ""}
    )
    settings = Recorder(path="/x", mode="always", required="during")
    recordings = Recordings(settings, store, calls, None, "p1")
    recordings._writing.client = client = Writer()
    client.send = client.opened.append
    await settled(recordings)
    assert recordings._writing.by_call == {}
    assert [message["type"] for message in client.opened] == ["close"]
    assert calls.call.end_reason == "recording_failed"
