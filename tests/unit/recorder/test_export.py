"""A bundle: unzip, sha256sum and openssl read it, and the recording in it is what it was.

Hostile recordings are exported too, and do no harm.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sfu.recorder import evidence
from sfu.recorder.evidence import EVENTS, MANIFEST, SIGNATURE, canonical, public_pem, verify
from sfu.recorder.export import export, export_with_progress
from sfu.recorder.recording import Recording
from tests.unit.recorder.encoded import FORMATS, Sender, pictures, sounds

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64)))
TRUSTED = KEY.public_key()

VIDEO, AUDIO = "0001-video-vp8.mkv", "0002-audio-opus.mka"
BESIDE = ("siprec.xml", "signing.pub", "report.html", "SHA256SUMS")

ABOUT = {
    "recording_id": "rec_1",
    "call_id": "call_1",
    "room": "room_1",
    "started_at": "2026-03-01T09:00:00.000Z",
    "by": "policy",
    "reason": "MiFID",
    "consent": "require_ack",
    "participants": ["ada", "bob"],
    "call_type": "video",
}

TOLD_FORMATS = {str(pt): [each.name, each.clock_rate, each.channels] for pt, each in FORMATS.items()}


def source(kind: str, name: str) -> dict:
    return {
        "kind": kind,
        "track_id": f"trk_{name}",
        "participant_id": f"par_{name}",
        "user_id": name,
        "user_name": name.title(),
        "source": "camera" if kind == "video" else "microphone",
        "rid": "",
        "ssrc": 7,
    }


def record(root: Path, about: dict = ABOUT, *, name: str = "ada", sealed: bool = True) -> Path:
    """Record two seconds of a picture and a sound, a pause, losses and what was answered."""
    recording = Recording(root / about["recording_id"], about, KEY, lambda number: None)
    recording.event("consent_asked", {"user_id": "ada"}, 0)
    recording.event("consent", {"user_id": "ada", "answer": "accepted"}, 5)
    recording.add_source(1, source("video", name), TOLD_FORMATS)
    recording.add_source(2, source("audio", "bob"), TOLD_FORMATS)
    steps = [(frame.timestamp / 90, 1, frame) for frame in pictures("vp8")]
    steps += [(frame.timestamp / 48, 2, frame) for frame in sounds()]
    senders = {1: Sender(96), 2: Sender(111)}
    for at_ms, number, frame in sorted(steps, key=lambda step: step[:2]):
        for packet in senders[number].send(frame):
            recording.media(number, packet, round(at_ms * 1000), at_ms / 1000)
    loss = {"track_id": "trk_bob", "file": AUDIO, "packets": 3, "broken_frames": 1}
    recording.event("loss", loss | {"frames_before_keyframe": 0}, 2_100)
    recording.event("loss", loss | {"frames_before_keyframe": 0}, 2_300)
    recording.event("size_changed", {"file": VIDEO, "from": [64, 48], "to": [640, 480]}, 2_400)
    recording.pause({"reason": "card number", "by": "ada"}, 3_000)
    recording.resume({"by": "timer"}, 62_000)
    if sealed:
        recording.close("call_ended", {"dropped": 4}, 63_000)
    else:
        recording.abandon()
    return recording.folder


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    return record(tmp_path_factory.mktemp("kept"))


@pytest.fixture
def folder(tmp_path, kept) -> Path:
    """A recording that is sealed, for one test."""
    return Path(shutil.copytree(kept, tmp_path / "recordings" / "rec_1"))


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


def unpacked(bundle: Path, where: Path) -> Path:
    """Unpack a bundle as its receiver does, and check it by its list of hashes; return where it is."""
    where.mkdir()
    run(where, "unzip", "-q", str(bundle))
    found = run(where, "sha256sum", "--strict", "--check", "SHA256SUMS")
    assert found.count(": OK") == len(files_in(where)) - 1
    return where


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def exported(folder: Path, where: Path, **more) -> Path:
    """Export and unpack a recording."""
    bundle = where / "bundle.zip"
    export(folder, bundle, **more)
    return unpacked(bundle, where / "unpacked")


class Page(HTMLParser):
    """What a browser makes of a page: which elements, which text, which cells."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[tuple[str, str | None]] = set()
        self.rows: list[list[str]] = []
        self.words, self._open = "", []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= set(attrs)
        if tag != "meta":
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.words += data
        if self._open and self._open[-1] in ("td", "th"):
            self.rows[-1][-1] += data

    def row(self, first: str) -> list[str]:
        """Return what stands behind a first cell."""
        (found,) = [row[1:] for row in self.rows if row[0] == first]
        return found


def report(where: Path) -> Page:
    return Page((where / "report.html").read_text())


def reseal(folder: Path, change) -> None:
    """Change the manifest, and sign it again."""
    manifest = json.loads((folder / MANIFEST).read_bytes())
    change(manifest)
    sign_anything(folder, canonical(manifest))


def sign_anything(folder: Path, raw: bytes) -> None:
    (folder / MANIFEST).write_bytes(raw)
    (folder / SIGNATURE).write_bytes(evidence.sign(raw, KEY))


# A recording that is right


def test_a_bundle_holds_the_recording_and_what_explains_it(folder, tmp_path):
    """Every file as it was, under the recording's id; the check of it says what it said."""
    before = content_of(folder)
    where = exported(folder, tmp_path)
    assert files_in(where) == sorted([*BESIDE, *(f"rec_1/{name}" for name in before)])
    assert content_of(where / "rec_1") == before == content_of(folder)
    assert verify(where / "rec_1", TRUSTED) == verify(folder, TRUSTED)
    assert verify(where / "rec_1", evidence.public_key(where / "signing.pub")).is_right


def test_the_verdict_is_returned(folder, tmp_path):
    assert export(folder, tmp_path / "a.zip") == verify(folder)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["a.zip"]


def test_the_page_tells_how_to_check_without_our_software(folder, tmp_path):
    """Its commands are run as they stand there."""
    where = exported(folder, tmp_path)
    commands = re.findall("<pre>(.*?)</pre>", (where / "report.html").read_text(), re.S)
    signature = next(each for each in commands if "openssl pkeyutl" in each).replace("&amp;", "&")
    out = run(where, "sh", "-ec", signature)
    assert "Signature Verified Successfully" in out
    manifest = json.loads((where / "rec_1" / MANIFEST).read_bytes())
    for file in manifest["files"]:
        assert f"{file['sha256']}  {file['name']}" in out
    assert f"{manifest['events']['sha256']}  {EVENTS}" in out


def test_the_metadata_are_of_this_recording(folder, tmp_path):
    where = exported(folder, tmp_path)
    root = ElementTree.parse(where / "siprec.xml").getroot()
    found = root.findall("{*}stream/{urn:sfu:recording:1}file")
    manifest = json.loads((folder / MANIFEST).read_bytes())
    told = [(file["name"], file["sha256"]) for file in manifest["files"]]
    assert [(each.attrib["name"], each.attrib["sha256"]) for each in found] == told
    assert len(root.findall("{*}sessionrecordingassoc")) == 2


def test_the_same_recording_makes_the_same_bytes(folder, tmp_path, monkeypatch):
    """Whenever, wherever and by whomever; whatever the files' own times and order are."""
    export(folder, tmp_path / "one.zip")
    copy = tmp_path / "elsewhere" / "renamed"
    copy.mkdir(parents=True)
    for path in sorted(folder.iterdir(), reverse=True):
        (copy / path.name).write_bytes(path.read_bytes())
        os.utime(copy / path.name, (1_000_000_000, 1_000_000_000))
    copy.joinpath(VIDEO).chmod(0o600)
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    export(copy, tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


def test_entries_are_plain_and_of_the_time_of_the_recording(folder, tmp_path):
    """Nothing is compressed; the recording comes first, in order."""
    export(folder, tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as bundle:
        entries = bundle.infolist()
        assert bundle.testzip() is None
    recorded = sorted(f"rec_1/{name}" for name in content_of(folder))
    assert [entry.filename for entry in entries] == [*recorded, *BESIDE]
    assert {entry.date_time for entry in entries} == {(2026, 3, 1, 9, 0, 0)}
    assert {entry.compress_type for entry in entries} == {zipfile.ZIP_STORED}
    assert {entry.external_attr >> 16 for entry in entries} == {0o100644}
    assert (tmp_path / "a.zip").stat().st_mode & 0o007 == 0


@pytest.mark.parametrize("began", ["1970-01-01T00:00:00Z", "2200-01-01T00:00:00Z", "", 7])
def test_a_time_that_zip_cannot_tell_is_none(folder, tmp_path, began):
    reseal(folder, lambda manifest: manifest.update(started_at=began))
    (folder / EVENTS).write_bytes(b"")
    export(folder, tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as bundle:
        assert {entry.date_time for entry in bundle.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_large_files_are_told_in_64_bits(folder, tmp_path, monkeypatch):
    """As if more than a kilobyte were more than four gigabytes."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1_000)
    where = exported(folder, tmp_path)
    assert content_of(where / "rec_1") == content_of(folder)


def test_how_far_it_is_is_told(folder, tmp_path):
    told: list[tuple[int, int]] = []
    export(folder, tmp_path / "a.zip", tell=lambda done, of: told.append((done, of)))
    size = sum(len(content) for content in content_of(folder).values())
    assert told == sorted(told)
    assert told[-1] == (size, size)
    assert {of for _, of in told} == {size}


# The report


def test_the_report_tells_what_was_recorded(folder, tmp_path):
    page = report(exported(folder, tmp_path))
    assert "This recording is right" in page.words
    assert evidence.key_id(TRUSTED) in page.words
    assert page.row("Recording") == ["rec_1"]
    assert page.row("Call") == ["call_1"]
    assert page.row("Began") == ["0:00:00.000 (2026-03-01 09:00:00.000 UTC)"]
    assert page.row("Ended") == ["0:01:03.000 (2026-03-01 09:01:03.000 UTC)"]
    assert page.row("Why it ended") == ["call_ended"]
    assert page.row("Users in the call") == ["ada, bob"]
    assert page.row("Ada") == ["ada", "par_ada", "0:00:00.000 (2026-03-01 09:00:00.000 UTC) to 0:01:03.000"]
    assert page.row(VIDEO)[:2] == ["Ada", "camera, vp8, 64\u00d748, 640\u00d7480"]


def test_the_report_tells_what_was_not_recorded(folder, tmp_path):
    """Pauses with their reasons, losses by file and in all."""
    page = report(exported(folder, tmp_path))
    paused, resumed = "0:00:03.000 (2026-03-01 09:00:03.000 UTC)", "0:01:02.000 (2026-03-01 09:01:02.000 UTC)"
    assert page.row(paused) == [resumed, "card number", "ada"]
    assert page.row("Packets lost") == ["6"]
    assert page.row("Packets that the recorder did not take in time") == ["4"]
    lost = [row for row in page.rows if row[0] == AUDIO and len(row) == 6]
    first, last = "0:00:02.100 (2026-03-01 09:00:02.100 UTC)", "0:00:02.300 (2026-03-01 09:00:02.300 UTC)"
    assert lost == [[AUDIO, first, last, "6", "2", "0"]]


def test_the_report_tells_who_agreed(folder, tmp_path):
    page = report(exported(folder, tmp_path))
    assert page.row("Terms") == ["require_ack"]
    answers = [row[1:] for row in page.rows if row[1:] and row[1] == "ada" and len(row) == 3]
    assert answers == [["ada", "consent_asked"], ["ada", "accepted"]]


def test_the_report_tells_the_hashes(folder, tmp_path):
    page = report(exported(folder, tmp_path))
    raw = (folder / MANIFEST).read_bytes()
    manifest = json.loads(raw)
    assert page.row("SHA-256 of manifest.json") == [hashlib.sha256(raw).hexdigest()]
    assert page.row("Head of the chain of events") == [manifest["events"]["head"]]
    assert page.row("Id of the key") == [manifest["key_id"]]
    for file in manifest["files"]:
        assert [row[-1] for row in page.rows if row[0] == file["name"] and len(row) == 9] == [file["sha256"]]


def test_the_report_tells_whether_the_key_is_trusted(folder, tmp_path):
    """One that stands beside the signature is anybody's."""
    for name, trusted, words in (
        ("one", None, "It stands beside the signature"),
        ("two", TRUSTED, "It is the key that the exporter trusts"),
    ):
        (tmp_path / name).mkdir()
        assert words in report(exported(folder, tmp_path / name, trusted=trusted)).words
    (tmp_path / "three").mkdir()
    page = report(exported(folder, tmp_path / "three", trusted=OTHER.public_key()))
    assert "This recording is NOT RIGHT" in page.words
    assert "not by" in page.words


def test_the_report_loads_nothing_and_runs_nothing(folder, tmp_path):
    page = report(exported(folder, tmp_path))
    assert not page.tags & {"script", "img", "link", "iframe", "object", "a", "form"}
    names = {name for name, _ in page.attributes}
    assert not {name for name in names if name.startswith("on")} | names & {"src", "href", "style"}
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes


# Those that are not right


@pytest.mark.parametrize("damage", ["video", "log", "manifest", "missing", "signature", "added"])
def test_one_that_is_not_right_is_exported_with_its_problems(folder, tmp_path, damage):
    """All that is there, and each problem is in the report."""
    if damage == "missing":
        (folder / AUDIO).unlink()
    elif damage == "added":
        (folder / "note.txt").write_text("hello")
    else:
        name = {"video": VIDEO, "log": EVENTS, "manifest": MANIFEST, "signature": SIGNATURE}[damage]
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
    expected = verify(folder, TRUSTED)
    assert not expected.is_right
    where = exported(folder, tmp_path, trusted=TRUSTED)
    assert content_of(where / "rec_1") == content_of(folder)
    assert verify(where / "rec_1", TRUSTED) == expected
    page = report(where)
    assert "This recording is NOT RIGHT" in page.words
    assert "This recording is right" not in page.words
    for problem in expected.problems:
        assert [problem.file, problem.what] in page.rows


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"7", b"[" * 100_000, b'{"files": 7, "events": []}', b"\xff"]
)
def test_a_manifest_that_is_none_is_exported_too(folder, tmp_path, raw):
    """The log still tells who was there."""
    sign_anything(folder, raw)
    page = report(exported(folder, tmp_path))
    assert "NOT RIGHT" in page.words
    assert page.row("Ada")[0] == "ada"


def test_without_a_signature_there_is_no_key(folder, tmp_path):
    (folder / SIGNATURE).unlink()
    where = exported(folder, tmp_path)
    assert "signing.pub" not in files_in(where)
    assert "NOT RIGHT" in report(where).words


def test_a_file_that_changes_meanwhile_is_noticed(folder, tmp_path):
    """It was right when it was checked, and is not what is in the bundle."""

    def tell(done: int, of: int) -> None:
        (folder / VIDEO).write_bytes(b"x" * (folder / VIDEO).stat().st_size)

    verdict = export(folder, tmp_path / "bundle.zip", tell=lambda done, of: None)
    assert verdict.is_right
    (folder / "0000-first.txt").write_text("its turn comes first")
    verdict = export(folder, tmp_path / "bundle.zip", tell=tell)
    where = unpacked(tmp_path / "bundle.zip", tmp_path / "unpacked")
    assert [VIDEO, "it was changed while it was exported"] in report(where).rows
    assert (VIDEO, "it was changed while it was exported") in [(p.file, p.what) for p in verdict.problems]


def test_a_file_that_grows_meanwhile_is_exported_as_it_was(folder, tmp_path):
    """As much of it as there was when the export began."""
    before = content_of(folder)

    def tell(done: int, of: int) -> None:
        with (folder / EVENTS).open("ab") as log:
            log.write(b"more\n")

    assert export(folder, tmp_path / "bundle.zip", tell=tell).is_right
    assert content_of(unpacked(tmp_path / "bundle.zip", tmp_path / "unpacked") / "rec_1") == before


# Hostile ones


def test_nothing_is_read_that_lies_elsewhere(folder, tmp_path):
    """A link, a pipe, a folder: told, and not followed."""
    secret = tmp_path / "secret"
    secret.write_text("the password")
    (folder / AUDIO).unlink()
    (folder / AUDIO).symlink_to(secret)
    (folder / "more.txt").symlink_to(secret)
    os.mkfifo(folder / "pipe")
    (folder / "inside").mkdir()
    (folder / "inside" / "file").write_text("the password")
    where = exported(folder, tmp_path)
    there = files_in(where / "rec_1")
    assert there == sorted([VIDEO, EVENTS, MANIFEST, SIGNATURE])
    assert b"the password" not in (tmp_path / "bundle.zip").read_bytes()
    told = {row[0] for row in report(where).rows if "it is not in the bundle" in row[-1]}
    assert told == {AUDIO, "more.txt", "pipe", "inside"}


def test_a_manifest_that_is_a_link_is_not_followed(folder, tmp_path):
    (folder / MANIFEST).rename(tmp_path / "manifest")
    (folder / MANIFEST).symlink_to(tmp_path / "manifest")
    where = exported(folder, tmp_path)
    assert f"rec_1/{MANIFEST}" not in files_in(where)
    assert "NOT RIGHT" in report(where).words


@pytest.mark.parametrize("name", ["a\nb", "ж", "c\udcff", ".hidden", "a b", "-rf", "a\\b", "a\x1b[31m", "%s"])
def test_files_with_strange_names_are_told_and_left_out(folder, tmp_path, name):
    (folder / name).write_text("strange")
    where = exported(folder, tmp_path)
    assert len(files_in(where / "rec_1")) == 5
    told = [row for row in report(where).rows if row[-1] == "it is not in the bundle: its name is not plain"]
    assert len(told) == 1
    assert re.fullmatch(r"[^\x00-\x1f\x7f\ud800-\udfff]+", told[0][0])


@pytest.mark.parametrize(
    "recording_id",
    ["../../etc", "/etc/passwd", "..", "", "a/b", "a\\b", "c:x", "REPORT.html", "SHA256SUMS", 7, None],
)
def test_no_id_leads_out_of_the_bundle(folder, tmp_path, recording_id):
    """Then it is the folder's own name."""
    reseal(folder, lambda manifest: manifest.update(recording_id=recording_id))
    export(folder, tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as bundle:
        assert {name.split("/")[0] for name in bundle.namelist()} == {"rec_1", *BESIDE}


def test_a_folder_without_a_plain_name_has_another_in_the_bundle(folder, tmp_path):
    strange = folder.rename(folder.parent / "my calls")
    reseal(strange, lambda manifest: manifest.update(recording_id="../x"))
    export(strange, tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as bundle:
        assert f"recording/{MANIFEST}" in bundle.namelist()


def test_names_that_no_file_has_are_not_looked_for(folder, tmp_path):
    """A manifest may name what it wants."""
    (tmp_path / "secret").write_text("the password")
    for name in ("../secret", "../../secret", str(tmp_path / "secret")):
        file = {"name": name, "sha256": "", "bytes": 0}
        reseal(folder, lambda manifest, file=file: manifest["files"].append(file))
    where = exported(folder, tmp_path)
    assert b"the password" not in (tmp_path / "bundle.zip").read_bytes()
    assert "it is no file of the folder" in report(where).words


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</td></tr></table></body>",
    "&lt;script&gt;",
    "<!--",
    "\x00\x1b[31m\x9b",
    "\u202eatad\u2066",
    "{title} %s {0}",
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_names_are_text_and_nothing_else(tmp_path, hostile):
    """Of people, rooms, reasons, keys of events: the page has the elements of every page."""
    usual = {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "h1",
        "h2",
        "p",
        "b",
        "table",
        "tr",
        "th",
        "td",
        "pre",
    }
    about = ABOUT | {name: hostile for name in ("call_id", "room", "by", "reason", "consent", "call_type")}
    folder = record(tmp_path, about | {"participants": [hostile]}, name=hostile)
    where = exported(folder, tmp_path)
    page = report(where)
    assert page.tags == usual
    assert page.row("Room") == page.row("Kind")
    seen = page.row("Room")[0]
    assert seen == re.sub("[\x00-\x1f\x7f-\x9f\u202e\u2066]", lambda c: f"\\u{ord(c[0]):04x}", hostile)
    assert f"trk_{hostile}" not in (where / "SHA256SUMS").read_text()
    ElementTree.parse(where / "siprec.xml")


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [None, True, -1, 1 << 80, 1.5, float("nan"), "x", "\ud800", [], [[]], [7], {}, {"a": 1}, nested(300)],
    ids=lambda value: str(type(value).__name__),
)
def test_whatever_a_manifest_holds_there_is_a_report(folder, tmp_path, value):
    """In each place something that should not be there, signed by the right key."""
    original = json.loads((folder / MANIFEST).read_bytes())
    for place in [*original, *original["files"][0]]:
        manifest = json.loads(json.dumps(original))
        if place in original:
            manifest[place] = value
        else:
            manifest["files"][0][place] = value
        sign_anything(folder, json.dumps(manifest).encode())
        export(folder, tmp_path / "a.zip")
        with zipfile.ZipFile(tmp_path / "a.zip") as bundle:
            Page(bundle.read("report.html").decode())
            ElementTree.fromstring(bundle.read("siprec.xml"))


def test_however_deep_a_manifest_is_there_is_a_report(folder, tmp_path):
    """Also one that can be read but not be written again."""
    manifest = json.loads((folder / MANIFEST).read_bytes())
    del manifest["previous"]
    limit = sys.getrecursionlimit()
    for depth in range(limit - 120, limit):
        deep = f'{json.dumps(manifest)[:-1]}, "previous": {"[" * depth}{"]" * depth}}}'
        sign_anything(folder, deep.encode())
        export(folder, tmp_path / "a.zip")


@pytest.mark.parametrize(
    "value",
    [None, -1, 1 << 80, "x", [], [[7, {}]], {"a": 1}, nested(300)],
    ids=lambda value: str(type(value).__name__),
)
def test_whatever_a_log_holds_there_is_a_report(folder, tmp_path, value):
    """Its chain is right, its events say what they want."""
    chain, lines = evidence.Chain(), b""
    for line in (folder / EVENTS).read_bytes().splitlines():
        event = json.loads(line)
        told = dict.fromkeys(event["data"], value)
        lines += chain.line(event["at"], event["t_ms"], event["type"], told)
    (folder / EVENTS).write_bytes(lines)
    page = report(exported(folder, tmp_path))
    assert "NOT RIGHT" in page.words


# The command


def test_the_command_writes_beside_the_folder(folder, capsys):
    assert export_with_progress(folder, None) == 0
    bundle = folder.parent / "rec_1.zip"
    assert capsys.readouterr().err == f"{bundle}: {bundle.stat().st_size} bytes\n"
    assert sorted(path.name for path in folder.parent.iterdir()) == ["rec_1", "rec_1.zip"]


def test_the_command_may_stand_in_the_folder(folder, monkeypatch):
    """The folder stays what it was."""
    before = content_of(folder)
    monkeypatch.chdir(folder)
    assert export_with_progress(Path(), None) == 0
    assert content_of(folder) == before
    assert (folder.parent / "rec_1.zip").exists()
    with pytest.raises(ValueError, match="added to the recording"):
        export_with_progress(Path(), Path("bundle.zip"))
    assert content_of(folder) == before


def test_the_command_names_what_is_wrong(folder, capsys):
    (folder / AUDIO).unlink()
    (folder / "a\x1b[31mred\n").touch()
    assert export_with_progress(folder, None) == 1
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert err.splitlines()[1:] == [
        f"{folder}: NOT RIGHT",
        f"  {AUDIO}: it is missing",
        r"  a\x1b[31mred\n: it does not belong to the recording",
        r"  a\x1b[31mred\n: it is not in the bundle: its name is not plain",
    ]


def test_the_command_takes_a_key(folder, tmp_path, capsys):
    for name, key, code in (("ours", KEY, 0), ("theirs", OTHER, 1)):
        path = tmp_path / f"{name}.pub"
        path.write_bytes(public_pem(key.public_key()))
        assert export_with_progress(folder, tmp_path / f"{name}.zip", key=path) == code
    assert "not by" in capsys.readouterr().err
    (tmp_path / "none.pub").write_text("no key")
    with pytest.raises(ValueError, match=r"none\.pub: it holds no public key"):
        export_with_progress(folder, None, key=tmp_path / "none.pub")


def test_what_is_there_is_written_over_only_by_force(folder, tmp_path):
    target = tmp_path / "bundle.zip"
    target.write_text("before")
    with pytest.raises(ValueError, match=r"it is there already \(--force\)"):
        export_with_progress(folder, target)
    assert target.read_text() == "before"
    assert export_with_progress(folder, target, force=True) == 0
    assert zipfile.is_zipfile(target)


def test_a_link_is_not_written_through(folder, tmp_path):
    """Neither by force nor by a name beside."""
    (tmp_path / "precious").write_text("before")
    (tmp_path / "bundle.zip").symlink_to(tmp_path / "precious")
    (tmp_path / ".bundle.zip.part").symlink_to(tmp_path / "precious")
    with pytest.raises(ValueError, match="there already"):
        export_with_progress(folder, tmp_path / "bundle.zip")
    assert export_with_progress(folder, tmp_path / "bundle.zip", force=True) == 0
    assert (tmp_path / "precious").read_text() == "before"
    assert not (tmp_path / "bundle.zip").is_symlink()


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_is_never_written_over(folder, tmp_path, force):
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match="there already"):
        export_with_progress(folder, tmp_path / "there", force=force)


def test_where_there_is_no_folder_that_is_told(folder, tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        export_with_progress(folder, tmp_path / "nowhere" / "bundle.zip")


@pytest.mark.parametrize("kind", ["unsealed", "erased", "empty", "missing", "file"])
def test_what_is_no_sealed_recording_is_refused(tmp_path, kind):
    """Nothing is written."""
    where = tmp_path / "rec_1"
    words = "there is no recording"
    if kind == "unsealed":
        record(tmp_path, sealed=False)
        words = "it is not sealed"
    elif kind == "erased":
        where.mkdir()
        (where / evidence.TOMBSTONE).write_text("{}")
        words = "it was erased"
    elif kind == "empty":
        where.mkdir()
    elif kind == "file":
        where.touch()
    with pytest.raises(ValueError, match=words):
        export_with_progress(where, None)
    assert [path.name for path in tmp_path.iterdir()] == ([] if kind == "missing" else ["rec_1"])


FULL = """
import resource, sys
from pathlib import Path
from sfu.recorder.export import export_with_progress
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    export_with_progress(Path(sys.argv[1]), None)
except OSError as error:
    print(error.strerror)
"""


def test_a_disk_that_is_full_leaves_nothing(folder):
    """Neither a half nor a name beside."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FULL, str(folder)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("File too large\n", "")
    assert [path.name for path in folder.parent.iterdir()] == ["rec_1"]


def test_an_export_that_is_cut_off_leaves_nothing(folder, tmp_path):
    def tell(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(folder, tmp_path / "a.zip", tell=tell)
    assert [path.name for path in tmp_path.iterdir()] == ["recordings"]
