"""Sealed recordings in the stores: a folder, and an S3 that goes away and comes back."""

import asyncio
import hashlib
import json
import os
from pathlib import Path

import pytest

from sfu.recorder import archive
from sfu.recorder.files import RecordingFiles
from sfu.settings import Recorder
from tests.support.s3 import running_s3

KEY = bytes(range(32))


@pytest.fixture
def recording(tmp_path):
    """Files as a recording has them, one of them of several pieces."""
    folder = tmp_path / "rec_1"
    folder.mkdir()
    (folder / "0001-video-vp8.mkv").write_bytes(os.urandom(3 * archive.PIECE_BYTES + 5))
    (folder / "0002-audio-opus.mka").write_bytes(b"")
    (folder / "manifest.json").write_bytes(b'{"a": 1}')
    (folder / ".manifest.json.new").write_bytes(b"half")
    return folder


@pytest.fixture
def s3(monkeypatch):
    with running_s3() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture(params=["file", "s3"])
def store(request, tmp_path):
    if request.param == "file":
        return archive.open_store((tmp_path / "an archive").as_uri())
    request.getfixturevalue("s3")
    return archive.open_store("s3://recordings/calls")


async def content(stores, file, start=0, stop=None):
    stop = file.bytes if stop is None else stop
    return b"".join([part async for part in archive.read(stores, "rec_1", file, KEY, start, stop)])


async def test_what_was_stored_is_read_back_whole_and_in_parts(recording, store):
    steps = []
    files = await archive.put(store, recording, KEY, steps.append)
    assert [file.name for file in files] == ["0001-video-vp8.mkv", "0002-audio-opus.mka", "manifest.json"]
    assert sum(steps) == archive.work(recording)
    for file in files:
        plain = (recording / file.name).read_bytes()
        assert (file.bytes, file.sha256) == (len(plain), hashlib.sha256(plain).hexdigest())
        assert await content([store], file) == plain
    video = (recording / files[0].name).read_bytes()
    for start, stop in ((0, 1), (archive.PIECE_BYTES - 1, archive.PIECE_BYTES + 1), (70_000, 2_000_000)):
        assert await content([store], files[0], start, stop) == video[start:stop]


async def test_nothing_of_it_can_be_read_without_the_key(recording, tmp_path):
    store = archive.open_store((tmp_path / "archive").as_uri())
    files = await archive.put(store, recording, KEY, lambda _: None)
    kept = {path.name: path.read_bytes() for path in (tmp_path / "archive" / "rec_1").iterdir()}
    assert set(kept) == {file.name for file in files} | {archive.INDEX}
    for file in files:
        stored = kept[file.name]
        assert hashlib.sha256(stored).hexdigest() == file.stored_sha256
        assert b'{"a"' not in stored
    index = json.loads(kept[archive.INDEX])
    assert [archive.StoredFile(**entry) for entry in index["files"]] == files
    with pytest.raises(ValueError, match="changed"):
        [part async for part in archive.read([store], "rec_1", files[0], bytes(32), 0, 10)]


async def test_what_is_there_and_right_is_not_sent_again(recording, s3):
    store = archive.open_store("s3://recordings/calls")
    await archive.put(store, recording, KEY, lambda _: None)
    before = {key: s3.written_at(key) for key in s3.names() if not key.endswith(archive.INDEX)}
    await archive.put(store, recording, KEY, lambda _: None)
    assert {key: s3.written_at(key) for key in before} == before


async def test_what_is_there_and_wrong_is_refused_and_then_right(recording, tmp_path):
    """Half of another upload, say, of the same length."""
    store = archive.open_store((tmp_path / "archive").as_uri())
    files = await archive.put(store, recording, KEY, lambda _: None)
    victim = tmp_path / "archive" / "rec_1" / files[0].name
    victim.write_bytes(bytes(victim.stat().st_size))
    with pytest.raises(ValueError, match="is not what was sent"):
        await archive.put(store, recording, KEY, lambda _: None)
    await archive.put(store, recording, KEY, lambda _: None)
    assert await content([store], files[0]) == (recording / files[0].name).read_bytes()


@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
async def test_what_one_store_does_not_give_whole_another_gives(recording, tmp_path, damage):
    one, two = (archive.open_store((tmp_path / name).as_uri()) for name in ("one", "two"))
    for store in (one, two):
        files = await archive.put(store, recording, KEY, lambda _: None)
    victim = tmp_path / "one" / "rec_1" / files[0].name
    if damage == "gone":
        victim.unlink()
    else:
        with victim.open("r+b") as file:
            file.truncate(100) if damage == "cut" else file.write(b"x")
    assert await content([one, two], files[0], 0, 50) == (recording / files[0].name).read_bytes()[:50]
    with pytest.raises(archive.FAILURES):
        await content([one], files[0], 0, 50)


async def test_it_is_taken_out_whole(recording, store):
    files = await archive.put(store, recording, KEY, lambda _: None)
    await archive.remove(store, "rec_1")
    with pytest.raises(archive.FAILURES):
        await content([store], files[0])
    await archive.remove(store, "rec_1")


async def test_a_store_that_is_away_is_told_soon(recording, s3):
    store = archive.open_store("s3://recordings/calls")
    s3.switch_off()
    async with asyncio.timeout(12):
        with pytest.raises(archive.FAILURES):
            await archive.put(store, recording, KEY, lambda _: None)
    s3.switch_on()
    await archive.put(store, recording, KEY, lambda _: None)


@pytest.mark.parametrize("url", ["nonsense://x", "memory:///", "http://x/y", "/a/path", ""])
def test_a_url_of_no_store_is_refused(url):
    with pytest.raises(ValueError, match="a store is one of"):
        archive.open_store(url)


@pytest.mark.parametrize("where", ["recordings", "recordings/in", ".", ".."])
def test_a_store_in_which_recordings_would_remove_each_other_is_refused(tmp_path, where):
    place = tmp_path / "kept"
    store = (place / where).resolve().as_uri()
    settings = Recorder(path=str(place), master_key="00" * 32, stores=[store])
    with pytest.raises(ValueError, match="not apart"):
        RecordingFiles(settings).prepare()
    RecordingFiles(Recorder(path=str(place), master_key="00" * 32)).prepare()


def test_a_folder_is_made(tmp_path):
    archive.open_store((tmp_path / "a" / "b").as_uri())
    assert Path(tmp_path / "a" / "b").is_dir()
