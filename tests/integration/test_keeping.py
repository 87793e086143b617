"""What becomes of a recording after its call: stored twice, read, held, erased."""

import asyncio
import hashlib
import io
import json
import os
import sqlite3
import sys
import time
import zipfile
from contextlib import asynccontextmanager

import pytest

from sfu.recorder import evidence, keeping
from sfu.server import Server
from sfu.settings import Auth, Http, Media, Recorder, Settings, Store
from tests.support.recording import SECOND, SECRET, on_stage, pictures, recording_server, together, until
from tests.support.s3 import running_s3
from tests.support.tsa import Authority, answering, serving

MASTER = bytes(range(32)).hex()


@pytest.fixture(scope="module")
def s3():
    with running_s3() as server:
        yield server


@asynccontextmanager
async def archiving_server(folder, s3, **settings):
    """A server that brings its recordings to a folder and to an S3."""
    stores = [(folder / "archive").as_uri(), f"s3://recordings/{folder.name}"]
    keys = {"SFU_RECORDER__MASTER_KEY": MASTER, "SFU_RECORDER__STORES": json.dumps(stores)}
    url = f"sqlite+aiosqlite:///{folder}/calls.db"
    told = {"SFU_STORE__URL": url, **keys, **s3.environment, **settings}
    async with recording_server(folder, **told) as server:
        yield server


async def recorded(stage, who="ann", seconds=2):
    """Let two people talk; return the id of the recording when their call is over."""
    ann, ben = await stage.people(who, f"ben-of-{who}")
    call = await stage.talk(ann, ben)
    recording_id = await ann.recording("active")
    await ben.sees(seconds * SECOND)
    await ann.client.request("call.end", {"call_id": call["id"]})
    return recording_id


async def in_state(rest, recording_id, state, timeout=15):
    async def found():
        _, document = await rest("GET", f"/recordings/{recording_id}")
        return document if document["state"] == state else None

    return await until(found, timeout)


async def read(rest, recording_id, name, **headers):
    return await rest.read(f"/recordings/{recording_id}/files/{name}", **headers)


async def stored_twice(stage, tmp_path, s3):
    """It is read without its disk, whole and in parts, and where one store has lost it."""
    recording_id = await recorded(stage, "ann")
    rest = stage.rest("ann", record=True)
    document = await in_state(rest, recording_id, "sealed")
    assert "key" not in document
    assert "stored" not in document
    folder = tmp_path / "recordings" / recording_id
    status, manifest, _ = await read(rest, recording_id, "manifest.json")
    assert (status, json.loads(manifest)["recording_id"]) == (200, recording_id)
    assert hashlib.sha256(manifest).hexdigest() == document["manifest_sha256"]
    names = {file["name"] for file in document["files"]} | {"events.jsonl"}
    names |= {"manifest.json", "manifest.sig", "manifest.tsr"}
    kept = {path.name for path in (tmp_path / "archive" / recording_id).iterdir()}
    assert kept == names | {"archive.json"}
    prefix = f"{tmp_path.name}/{recording_id}/"
    assert {key.removeprefix(prefix) for key in s3.names() if key.startswith(prefix)} == kept
    await until(lambda: not folder.exists(), timeout=10)
    # Each file is what its hash in the manifest says, also in parts.
    for told in json.loads(manifest)["files"]:
        status, data, kind = await read(rest, recording_id, told["name"])
        path = tmp_path / told["name"]
        path.write_bytes(data)
        assert (status, evidence.sha256_of(path)[0]) == (200, told["sha256"])
        assert kind.endswith("x-matroska")
        status, part, _ = await read(rest, recording_id, told["name"], Range="bytes=100-1099")
        assert (status, part) == (206, data[100:1100])
    video = next(f for f in document["files"] if f["kind"] == "video" and f["user_id"] == "ann")
    assert len(pictures(tmp_path / video["name"])) > SECOND
    status, _, _ = await read(rest, recording_id, video["name"], Range="bytes=99999999-")
    assert status == 416
    _, verdict = await rest("POST", f"/recordings/{recording_id}/verify")
    assert (verdict["is_right"], verdict["problems"]) == (True, [])
    status, bundle, kind = await rest.read(f"/recordings/{recording_id}/export")
    assert (status, kind) == (200, "application/zip")
    with zipfile.ZipFile(io.BytesIO(bundle)) as packed:
        assert packed.testzip() is None
        assert {f"{recording_id}/{name}" for name in names} < set(packed.namelist())
    # What is wrong in one store is read from the other.
    (tmp_path / "archive" / recording_id / video["name"]).write_bytes(b"gone")
    assert (await read(rest, recording_id, video["name"]))[1] == (tmp_path / video["name"]).read_bytes()


async def read_by_a_ticket(stage):
    """A ticket is for one recording, and who reads is noted."""
    recording_id = await recorded(stage, "bea")
    rest, admin = stage.rest("bea", record=True), stage.rest("boss", admin=True)
    await in_state(rest, recording_id, "sealed")
    status, playable = await rest("POST", f"/recordings/{recording_id}/play")
    assert status == 200
    anybody = stage.rest("eve")
    anybody.headers = {}
    for file in playable["files"]:
        status, data, _ = await anybody.read(file["url"].removeprefix("/api/v1"))
        assert (status, bool(data)) == (200, True)
    url = playable["files"][0]["url"].removeprefix("/api/v1")
    for wrong in (url[:-3], url.replace(recording_id, "rec_other"), url.partition("?")[0]):
        assert (await anybody.read(wrong))[0] == 401
    stranger = stage.rest("eve", record=True)
    assert (await stranger("POST", f"/recordings/{recording_id}/play"))[0] == 404
    assert (await rest("GET", f"/recordings/{recording_id}/audit"))[0] == 403
    _, trail = await admin("GET", f"/recordings/{recording_id}/audit")
    assert [entry["action"] for entry in trail["entries"]] == ["play"] + ["read"] * len(playable["files"])
    assert {entry["user_id"] for entry in trail["entries"]} == {"bea"}


async def held_and_erased(stage, tmp_path, s3):
    """What is held stays, and what is erased leaves a stone."""
    recording_id = await recorded(stage, "cid")
    rest, admin = stage.rest("cid", record=True), stage.rest("boss", admin=True)
    document = await in_state(rest, recording_id, "sealed")
    path = f"/recordings/{recording_id}"
    assert (await rest("POST", path + "/hold", {"hold": True}))[0] == 403
    assert (await rest("DELETE", path))[0] == 403
    status, held = await admin("POST", path + "/hold", {"hold": True, "reason": "a lawsuit"})
    assert (status, held["hold"]["by"], held["hold"]["reason"]) == (200, "boss", "a lawsuit")
    status, problem = await admin("DELETE", path, {"reason": "asked to"})
    assert (status, problem["code"]) == (409, "legal_hold")
    assert (await read(rest, recording_id, "manifest.json"))[0] == 200
    await admin("POST", path + "/hold", {"hold": False})
    status, erased = await admin("DELETE", path, {"reason": "asked to"})
    assert (status, erased["state"], erased["erased_by"]) == (200, "erased", "boss")
    assert not [key for key in s3.names() if recording_id in key]
    assert not (tmp_path / "archive" / recording_id).exists()
    assert (await read(rest, recording_id, "manifest.json"))[0] == 409
    assert (await admin("POST", path + "/hold", {"hold": True}))[0] == 409
    folder = tmp_path / "recordings" / recording_id
    stone = json.loads((folder / evidence.TOMBSTONE).read_bytes())
    assert stone["manifest_sha256"] == document["manifest_sha256"]
    assert (stone["erased_by"], stone["erase_reason"]) == ("boss", "asked to")
    key = evidence.public_key(tmp_path / "signing.pub")
    verdict = evidence.verify(folder, key)
    assert (verdict.is_right, verdict.end_reason) == (True, "erased by boss")
    (folder / evidence.TOMBSTONE).write_bytes(evidence.canonical({**stone, "erased_by": "eve"}))
    assert not evidence.verify(folder, key).is_right
    _, trail = await admin("GET", path + "/audit")
    actions = [entry["action"] for entry in trail["entries"]]
    assert actions == ["hold", "read", "release", "erase"]
    assert trail["entries"][3]["detail"] == {"reason": "asked to"}


async def dated(stage, authority):
    """An authority says when the manifest was there."""
    recording_id = await recorded(stage, "dee")
    rest = stage.rest("dee", record=True)
    document = await in_state(rest, recording_id, "sealed")
    assert document["alarm"] is None
    _, manifest, _ = await read(rest, recording_id, "manifest.json")
    _, token, _ = await read(rest, recording_id, "manifest.tsr")
    assert authority.verifies(manifest, token)
    _, verdict = await rest("POST", f"/recordings/{recording_id}/verify")
    assert (verdict["is_right"], verdict["problems"]) == (True, [])


async def test_what_is_sealed_is_stored_read_held_and_erased(tmp_path, s3):
    authority = Authority(tmp_path / "tsa", "Clock")
    async with (
        serving(answering(authority.answer)) as url,
        archiving_server(tmp_path, s3, SFU_RECORDER__TIMESTAMP_URL=url) as server,
        on_stage(server) as stage,
    ):
        await together(
            stored_twice(stage, tmp_path, s3),
            read_by_a_ticket(stage),
            held_and_erased(stage, tmp_path, s3),
            dated(stage, authority),
        )


async def test_a_store_that_is_away_is_told_and_gets_it_when_it_is_back(tmp_path, s3):
    async with archiving_server(tmp_path, s3) as server, on_stage(server) as stage:
        s3.switch_off()
        try:
            recording_id = await recorded(stage)
            rest = stage.rest("ann", record=True)
            await in_state(rest, recording_id, "uploading")
            uploading = time.monotonic()

            async def alarm():
                _, document = await rest("GET", f"/recordings/{recording_id}")
                return document["alarm"]

            assert await until(alarm) in ("upload_failing", "upload_stalled")
            assert time.monotonic() - uploading < 5
            # It can be read meanwhile, and nothing of it is removed.
            assert (await read(rest, recording_id, "manifest.json"))[0] == 200
            assert (tmp_path / "recordings" / recording_id / "manifest.json").exists()
        finally:
            s3.switch_on()
        document = await in_state(rest, recording_id, "sealed", timeout=40)
        assert document["alarm"] is None
        assert [key for key in s3.names() if recording_id in key]


async def test_a_server_that_dies_meanwhile_goes_on_at_its_next_start(tmp_path, s3):
    s3.switch_off()
    try:
        async with archiving_server(tmp_path, s3) as server, on_stage(server) as stage:
            recording_id = await recorded(stage)
            await in_state(stage.rest("ann", record=True), recording_id, "uploading")
            await server.kill()
    finally:
        s3.switch_on()
    async with archiving_server(tmp_path, s3) as server, on_stage(server) as stage:
        rest = stage.rest("ann", record=True)
        await in_state(rest, recording_id, "sealed", timeout=40)
        _, verdict = await rest("POST", f"/recordings/{recording_id}/verify")
        assert verdict["is_right"]
        assert [key for key in s3.names() if recording_id in key]


async def test_what_the_next_servers_do_with_what_one_has_stored(tmp_path, s3):
    keep = {"SFU_RECORDER__KEEP_AT_LEAST_DAYS": "1", "SFU_RECORDER__KEEP_DAYS": "2"}
    async with archiving_server(tmp_path, s3, **keep) as server, on_stage(server) as stage:
        admin = stage.rest("boss", admin=True)
        one, two = await asyncio.gather(recorded(stage, "ann"), recorded(stage, "bea"))
        for recording_id in (one, two):
            document = await in_state(admin, recording_id, "sealed")
            assert document["keep_until"][:10] > document["created_at"][:10]
            status, problem = await admin("DELETE", f"/recordings/{recording_id}")
            assert (status, problem["code"]) == (409, "retained")
    await without_the_master_key(tmp_path, s3, one)
    await fetched_by_the_command(tmp_path, one)
    await over_after_two_days(tmp_path, s3, two, keep)
    assert {key.split("/")[1] for key in s3.names() if key.startswith(tmp_path.name)} == {one}


async def without_the_master_key(tmp_path, s3, recording_id):
    other = {"SFU_RECORDER__MASTER_KEY": bytes(32).hex()}
    async with archiving_server(tmp_path, s3, **other) as server, on_stage(server) as stage:
        status, body, _ = await read(stage.rest("ann", record=True), recording_id, "manifest.json")
        assert (status, json.loads(body)["code"]) == (503, "key_away")


async def over_after_two_days(tmp_path, s3, recording_id, keep):
    """It becomes old: as if it had been made long ago."""
    with sqlite3.connect(tmp_path / "calls.db") as database:
        (text,) = database.execute("SELECT document FROM recordings WHERE id = ?", [recording_id]).fetchone()
        old = json.loads(text) | {"created_at": "2026-01-01T00:00:00.000Z"}
        row = (json.dumps(old), "2026-01-03T00:00:00.000Z", recording_id)
        database.execute("UPDATE recordings SET document = ?, keep_until = ? WHERE id = ?", row)
    async with archiving_server(tmp_path, s3, **keep) as server, on_stage(server) as stage:
        erased = await in_state(stage.rest("boss", admin=True), recording_id, "erased")
        assert (erased["erased_by"], erased["files"]) == ("retention", [])


async def fetched_by_the_command(tmp_path, recording_id):
    """What it fetches is checked without a server."""
    settings = {
        "SFU_RECORDER__PATH": str(tmp_path),
        "SFU_RECORDER__MASTER_KEY": MASTER,
        "SFU_STORE__URL": f"sqlite+aiosqlite:///{tmp_path}/calls.db",
    }

    async def sfu(*arguments, **more):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "sfu", "recordings", *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, **settings, **more},
        )
        output, _ = await process.communicate()
        return process.returncode, output.decode()

    code, told = await sfu("fetch", recording_id, "-o", str(tmp_path / "out"))
    assert (code, f"{tmp_path}/out/{recording_id}" in told.replace("\n", "")) == (0, True)
    code, told = await sfu("verify", str(tmp_path / "out"), "--key", str(tmp_path / "signing.pub"))
    assert (code, ": right, signed by" in told) == (0, True)
    for arguments, more, why in (
        ((recording_id, "out"), {}, "is there already"),
        (("rec_other", "out"), {}, "no such recording"),
        ((recording_id, "elsewhere"), {"SFU_RECORDER__MASTER_KEY": ""}, "key"),
        ((recording_id, "elsewhere"), {"SFU_STORE__URL": "memory://"}, "store.url"),
    ):
        which, where = arguments
        code, told = await sfu("fetch", which, "-o", str(tmp_path / where), **more)
        assert (code, why in told) == (2, True), told
        assert "Traceback" not in told


async def test_an_authority_that_is_away_keeps_nothing_for_ever(tmp_path, monkeypatch):
    """The recording stays where it is for a while, with an alarm; then it is kept without its date."""
    monkeypatch.setattr(keeping, "AGAIN_S", 0.05)
    monkeypatch.setattr(keeping, "MAX_AGAIN_S", 0.05)
    monkeypatch.setattr(keeping, "STAMP_ATTEMPTS", 3)
    settings = Settings(
        http=Http(port=0),
        media=Media(udp_port=0, tcp_port=0),
        auth=Auth(secret=SECRET),
        store=Store(url="memory://"),
        recorder=Recorder(
            path=str(tmp_path), mode="always", master_key=MASTER, timestamp_url="http://127.0.0.1:1/tsr"
        ),
    )
    server = Server(settings, dev=False)
    await server.start()
    try:
        document = {
            "id": "rec_1",
            "call_id": "call_1",
            "room": "r",
            "state": "finishing",
            "consent": "notify",
        }
        document |= {"created_at": "2026-01-01T00:00:00.000Z", "by": "a", "reason": "", "user_ids": ["a"]}
        recordings = server.recordings
        await recordings.book.store.put(document)
        folder = recordings.files.place(document)
        folder.mkdir()
        (folder / "manifest.json").write_bytes(b"{}")
        await recordings.keeping.sealed(document, {"place": 0, "bytes": 2})

        async def sealed():
            found = await recordings.book.get("rec_1")
            return found if found["state"] == "sealed" else None

        found = await until(sealed, timeout=40)
        assert (found["alarm"], found["stored"][0]["name"]) == ("not_stamped", "manifest.json")
    finally:
        assert await server.stop()
