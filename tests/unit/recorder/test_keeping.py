"""Bringing recordings to the stores and erasing them, when others are at it and when something hangs."""

import asyncio
import base64
import json

import pytest

from sfu.calls.call import Change
from sfu.errors import Conflict, InvalidState, Unavailable
from sfu.recorder import archive, evidence
from sfu.recorder.book import Book
from sfu.recorder.files import RecordingFiles
from sfu.recorder.keeping import FOLDERS_S, GIVEN_UP_S, MAX_AGAIN_S, STALLED_S, Keeping
from sfu.settings import Recorder
from sfu.store.recordings import MemoryRecordings

AT = "2026-01-01T00:00:00.000Z"


class Calls:
    """The service of calls: nobody is in any."""

    async def change(self, call_id, act):
        return Change(None)


class Processes:
    """The processes that write: they note what they are told."""

    def __init__(self):
        self.told, self.ready = [], {0}

    def is_ready_at(self, place):
        return place in self.ready

    def send(self, message):
        self.told.append(message)


class Service:
    """A key management service that can hang, and that another server asks too."""

    def __init__(self):
        self.answers = asyncio.Event()
        self.answers.set()
        self.before_wrap = None

    async def wrap(self, key, recording_id):
        if self.before_wrap is not None:
            await self.before_wrap()
        return {"key": base64.b64encode(key).decode()}

    async def unwrap(self, wrapped, recording_id):
        await self.answers.wait()
        return base64.b64decode(wrapped["key"])


def manifest(recording_id, size):
    names = ("call_id", "room", "started_at", "ended_at", "duration_ms", "end_reason", "losses")
    return dict.fromkeys(names, "") | {
        "recording_id": recording_id,
        "files": [{"name": "a.mkv", "bytes": size}],
    }


class Scene:
    def __init__(self, tmp_path, **settings):
        settings = Recorder(path=str(tmp_path), master_key="00" * 32, **settings)
        self.store, self.client, self.service = MemoryRecordings(), Processes(), Service()
        self.files = RecordingFiles(settings)
        self.files.prepare()
        self.files.master = self.service
        book = Book(self.store, Calls())
        self.keeping = Keeping(self.files, tmp_path / "signing.pem", book, self.client, "")
        self.now = 100.0

    async def recorded(self, recording_id="rec_1", **more):
        """A recording lies sealed on the disk."""
        document = {"id": recording_id, "call_id": "call_1", "state": "finishing", "created_at": AT, **more}
        await self.store.put(document)
        folder = self.files.roots[0] / recording_id
        folder.mkdir(parents=True)
        (folder / evidence.MANIFEST).write_bytes(evidence.canonical(manifest(recording_id, 9)))
        await self.keeping.sealed(document, {"place": 0, "bytes": 9})
        return folder

    async def tick(self, later=0.0):
        self.now += later
        await self.keeping.tick(self.now)
        for _ in range(20):
            await asyncio.sleep(0)

    async def document(self, recording_id="rec_1"):
        return await self.store.get(recording_id)

    def archives(self):
        return [message for message in self.client.told if message["type"] == "archive"]


@pytest.fixture
async def scene(tmp_path):
    made = Scene(tmp_path)
    yield made
    await made.keeping.close()


async def test_the_key_that_is_used_is_the_one_that_is_kept(scene):
    """Another server on this disk made one in the same moment: that one holds."""
    await scene.recorded()

    async def other():
        scene.service.before_wrap = None
        wrapped = await scene.service.wrap(b"o" * 32, "rec_1")
        await scene.store.change("rec_1", {"key": wrapped}, unless=("key",))

    scene.service.before_wrap = other
    await scene.tick()
    (told,) = scene.archives()
    assert archive.from_text(told["key"]) == b"o" * 32
    assert base64.b64decode((await scene.document())["key"]["key"]) == b"o" * 32


async def test_a_key_service_that_hangs_is_told_and_holds_up_nobody(scene):
    await scene.recorded()
    scene.service.answers.clear()
    async with asyncio.timeout(5):
        await scene.tick()
        await scene.tick(STALLED_S + 0.1)
    assert (await scene.document())["alarm"] == "upload_stalled"
    assert scene.archives() == []
    scene.service.answers.set()
    await scene.tick()
    assert len(scene.archives()) == 1


async def test_what_does_not_move_is_asked_for_again(scene):
    await scene.recorded()
    await scene.tick()
    scene.keeping.receive({"type": "archiving", "id": "rec_1", "bytes": 1, "of": 9}, scene.now)
    await scene.tick(STALLED_S + 0.1)
    assert (await scene.document())["alarm"] == "upload_stalled"
    scene.keeping.receive({"type": "archiving", "id": "rec_1", "bytes": 2, "of": 9}, scene.now)
    await scene.tick()
    assert (await scene.document())["alarm"] is None
    await scene.tick(GIVEN_UP_S + 1)
    await scene.tick(2.0)
    assert len(scene.archives()) == 2


async def test_it_waits_longer_each_time_and_for_the_recorder_that_has_it(scene):
    await scene.recorded()
    await scene.tick()
    for attempt in range(1, 5):
        scene.keeping.receive({"type": "archive_failed", "id": "rec_1", "error": "away"}, scene.now)
        await scene.tick(2 ** (attempt - 1) - 0.1)
        assert len(scene.archives()) == attempt
        await scene.tick(0.2)
        assert len(scene.archives()) == attempt + 1
    scene.client.ready.clear()
    scene.keeping.lost(scene.now)
    await scene.tick(1)
    assert len(scene.archives()) == 5
    scene.client.ready.add(0)
    await scene.tick(1)
    assert len(scene.archives()) == 6


async def test_the_copy_on_the_disk_goes_when_the_database_knows_of_the_others(scene):
    await scene.recorded()
    await scene.tick()
    stored = [{"name": "manifest.json", "bytes": 2, "sha256": "", "stored_bytes": 18, "stored_sha256": ""}]
    told = {"type": "archived", "id": "rec_1", "files": stored, "is_stamped": False}
    change, away = scene.store.change, True

    async def fails(*arguments, **more):
        if away:
            raise Unavailable("away")
        return await change(*arguments, **more)

    scene.store.change = fails
    scene.keeping.receive(told, scene.now)
    await scene.tick()
    assert [message["type"] for message in scene.client.told] == ["archive"]
    away = False
    await scene.keeping._book.try_again()
    assert (await scene.document())["state"] == "sealed"
    longer = scene.files.roots[0].parent / "second" / "rec_1"
    longer.mkdir(parents=True)
    (longer / evidence.MANIFEST).write_bytes(evidence.canonical(manifest("rec_1", 10)))
    scene.files.roots.append(longer.parent)
    await until(lambda: not scene.keeping._is_tidying)
    await scene.tick(FOLDERS_S + 1)
    await until(lambda: scene.client.told[-1] == {"type": "remove", "id": "rec_1", "place": 0})
    await until(lambda: not scene.keeping._is_tidying)
    assert scene.client.told[-1]["place"] == 0, "what the other recorder has more of stays"


async def test_erasing_destroys_the_key_first_and_is_noted_once(scene, tmp_path):
    """The store does not let go of the files at first: nobody can read them any more all the same."""
    folder = await scene.recorded()
    await scene.tick()
    store = archive.open_store(scene.files.urls[0])
    key = archive.from_text(scene.archives()[0]["key"])
    await archive.put(store, folder, key, lambda _: None)
    kept = tmp_path / "archive" / "rec_1"
    await scene.store.change("rec_1", {"state": "sealed", "stores": ["nonsense://x"]})
    document = await scene.keeping.erase("rec_1", by="boss", reason="asked to")
    assert (document["state"], document["key"], kept.is_dir()) == ("erasing", None, True)
    await scene.store.change("rec_1", {"stores": scene.files.urls})
    await until(lambda: not scene.keeping._is_tidying)
    await scene.tick(61)
    await until(lambda: scene.store._documents["rec_1"]["state"] == "erased")
    assert not kept.exists()
    assert [entry["action"] for entry in await scene.store.trail("rec_1")] == ["erase"]
    assert {path.name for path in folder.iterdir()} == {evidence.TOMBSTONE, evidence.TOMBSTONE_SIGNATURE}
    assert json.loads((folder / evidence.TOMBSTONE).read_bytes())["erased_by"] == "boss"
    assert evidence.verify(folder).is_right


async def until(found):
    async with asyncio.timeout(20):
        while not found():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("state", ["active", "paused", "finishing"])
async def test_what_is_under_way_is_not_erased(scene, state):
    await scene.recorded()
    await scene.store.change("rec_1", {"state": state})
    with pytest.raises(InvalidState):
        await scene.keeping.erase("rec_1", by="boss", reason="")


async def test_a_hold_that_comes_first_wins(scene):
    await scene.recorded()
    await scene.store.change("rec_1", {"state": "sealed"})
    await scene.keeping.hold("rec_1", "boss", "a lawsuit", holds=True)
    with pytest.raises(Conflict) as refused:
        await scene.keeping.erase("rec_1", by="boss", reason="")
    assert refused.value.code == "legal_hold"
    await scene.keeping.hold("rec_1", "boss", "", holds=False)
    await scene.keeping.erase("rec_1", by="boss", reason="")
    with pytest.raises(InvalidState):
        await scene.keeping.hold("rec_1", "boss", "", holds=True)


async def test_an_upload_that_fails_for_days_is_tried_again_and_is_in_nobodys_way(scene):
    await scene.recorded("rec_1")
    await scene.recorded("rec_2", place=1)  # of a recorder that is not there any more
    await scene.recorded("rec_3")
    await scene.tick()
    scene.keeping._uploads["rec_1"].attempts = 5_000
    scene.keeping.receive({"type": "archive_failed", "id": "rec_1", "error": "away"}, scene.now)
    await scene.tick(MAX_AGAIN_S + 1)
    assert [message["id"] for message in scene.archives()].count("rec_1") == 2


async def test_two_are_brought_away_at_once_and_who_waits_his_turn_is_not_late(scene):
    for number in range(5):
        await scene.recorded(f"rec_{number}")
    await scene.tick()
    assert len(scene.archives()) == 2
    await scene.tick(STALLED_S + 1)
    alarms = [(await scene.document(f"rec_{number}")).get("alarm") for number in range(5)]
    assert alarms == ["upload_stalled"] * 2 + [None] * 3


async def test_what_another_server_has_brought_away_or_erased_is_let_be(scene):
    """It lost the race for an upload: that makes nothing of what is sealed or erased."""
    await scene.recorded()
    await scene.store.change("rec_1", {"state": "erased", "erased_at": AT, "key": None})
    await scene.tick()
    assert (scene.archives(), (await scene.document())["key"]) == ([], None)
    assert scene.keeping._uploads == {}
    await scene.keeping.sealed(await scene.document(), {"place": 0, "bytes": 9})
    assert (await scene.document())["state"] == "erased"


async def test_what_was_erased_while_a_disk_was_away_is_erased_when_it_is_back(scene, tmp_path):
    folder = await scene.recorded()
    away = tmp_path / "away"
    folder.rename(away)
    await scene.store.change("rec_1", {"state": "sealed"})
    await scene.keeping.erase("rec_1", by="boss", reason="")
    stone = {path.name for path in folder.iterdir()}
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    away.rename(folder)
    await scene.tick()
    await until(lambda: {path.name for path in folder.iterdir()} == stone)


async def test_what_is_on_its_way_can_be_erased(scene):
    """A request to erase is met also where a store is away for ever."""
    await scene.recorded()
    await scene.tick()
    document = await scene.keeping.erase("rec_1", by="boss", reason="")
    assert document["state"] == "erased"
    scene.keeping.receive({"type": "archived", "id": "rec_1", "files": [], "is_stamped": False}, scene.now)
    await scene.tick()
    assert (await scene.document())["state"] == "erased"
