"""A recording as one ZIP for an archive or an auditor: its folder as it is, and beside it what explains it.

    rec_…/          every file of the recording; `sfu recordings verify` checks it as before
    siprec.xml      who, when and what, as RFC 7865 tells it
    signing.pub     the public key that stands in the signature
    report.html     the same for people, and whether the recording is right
    SHA256SUMS      of every other file, for sha256sum(1)

The same recording makes the same bytes: nothing is compressed, and times are those of the manifest.
"""

import base64
import errno
import hashlib
import html
import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from sfu.recorder import evidence, siprec, timestamp
from sfu.recorder.evidence import EVENTS, MANIFEST, SIGNATURE, Problem, Verdict
from sfu.recorder.siprec import Account, entries, number, text

METADATA, KEY, REPORT, SUMS = "siprec.xml", "signing.pub", "report.html", "SHA256SUMS"

# Told of how much is written: bytes, and bytes of all.
Tell = Callable[[int, int], None]

_CHUNK = 1 << 20

# Losses, as the log names them and as people do.
_LOST = (
    ("packets", "Packets lost"),
    ("broken_frames", "Broken frames"),
    ("frames_before_keyframe", "Frames before a keyframe"),
)
_DROPPED = ("dropped_before_recorder", "Packets that the recorder did not take in time")

_TRUSTED = "It is the key that the exporter trusts."
_BESIDE = "It stands beside the signature: compare its id with one that you have from another source."

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em }}
table {{ border-collapse: collapse; margin: .5em 0 }}
td, th {{ border: 1px solid #bbb; overflow-wrap: anywhere; padding: .2em .6em; text-align: left }}
th {{ background: #eee }}
pre {{ background: #eee; padding: .6em; white-space: pre-wrap }}
.right, .wrong {{ border: 2px solid #070; font-size: 120%; padding: .5em }}
.wrong {{ border-color: #b00; color: #b00 }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}</body>
</html>
"""

_ADVICE = """<p>Whether this bundle is as it was exported:</p>
<pre>sha256sum -c SHA256SUMS</pre>
<p>Whether the recording is as it was sealed. Better than the key in this bundle is one that you have from
another source.</p>
<pre>sfu recordings verify {name} --key signing.pub</pre>
<p>The same without our software: the signature (Ed25519, RFC 8032) of the manifest; then the SHA-256 of each
file against the manifest, which the table above repeats.</p>
<pre>python3 -c 'import base64, json
signature = json.load(open("{name}/manifest.sig"))["signature"]
open("signature.bin", "wb").write(base64.b64decode(signature))'
openssl pkeyutl -verify -pubin -inkey signing.pub -rawin -in {name}/manifest.json -sigfile signature.bin
(cd {name} &amp;&amp; sha256sum *.mk? events.jsonl)</pre>
<p>If there is a manifest.tsr, a time stamp (RFC 3161), against the root certificate of who gave it:</p>
<pre>openssl ts -verify -data {name}/manifest.json -in {name}/manifest.tsr -CAfile ROOT.pem</pre>
"""

# What a reader would not see, or what would turn the text around it: told by its number.
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff\ud800-\udfff]"
)


@dataclass(slots=True)
class _Recording:
    """What a folder tells, as far as it can be read."""

    folder: Path
    name: str
    raw: bytes
    manifest: dict[str, Any]
    events: list[dict[str, Any]]
    key: bytes | None
    verdict: Verdict
    more: list[Problem] = field(default_factory=list)

    @property
    def judged(self) -> Verdict:
        """The verdict, with what came up since."""
        return replace(self.verdict, problems=(*self.verdict.problems, *self.more))


def export(
    folder: Path, target: Path, trusted: Ed25519PublicKey | None = None, tell: Tell | None = None
) -> Verdict:
    """Write the bundle of a recording; return what the check of it found, which the report tells too.

    Raises:
        ValueError: there is no recording, or it is not sealed.
        OSError: it cannot be read or written; nothing is left of the bundle.

    """
    recording = _read(folder, trusted)
    part = target.with_name(f".{target.name}.part")
    part.unlink(missing_ok=True)
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
        with open(descriptor, "wb") as file:
            _write(file, recording, trusted is not None, tell or (lambda _done, _of: None))
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return recording.judged


# Reading


def _open(path: Path) -> BinaryIO:
    """Open a plain file, and nothing that a link or a pipe leads to.

    Raises:
        OSError: it is none, or cannot be read.

    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no plain file")
    return open(descriptor, "rb")


def _content(folder: Path, name: str) -> bytes:
    """Return what a file holds; nothing if it cannot be read, which the check tells."""
    try:
        with _open(folder / name) as file:
            return file.read()
    except OSError:
        return b""


def _object(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _read(folder: Path, trusted: Ed25519PublicKey | None) -> _Recording:
    if not os.path.lexists(folder / MANIFEST):
        if (folder / evidence.TOMBSTONE).exists():
            raise ValueError(f"{folder}: it was erased")
        if not (folder / EVENTS).exists():
            raise ValueError(f"{folder}: there is no recording")
        raise ValueError(f"{folder}: it is not sealed, and what may still change is not exported")
    verdict = evidence.verify(folder, trusted)
    raw = _content(folder, MANIFEST)
    manifest = _object(raw)
    names = (text(manifest.get("recording_id")), folder.name, "recording")
    beside = {name.lower() for name in (METADATA, KEY, REPORT, SUMS)}
    name = next(n for n in names if evidence.is_file_name(n) and n.lower() not in beside)
    events = evidence.read_chain(_content(folder, EVENTS))[0]
    return _Recording(folder, name, raw, manifest, events, _key(folder), verdict)


def _key(folder: Path) -> bytes | None:
    """Return the key in the signature, as PEM; None if there is none."""
    try:
        raw = base64.b64decode(text(_object(_content(folder, SIGNATURE)).get("public_key")), validate=True)
        return evidence.public_pem(Ed25519PublicKey.from_public_bytes(raw))
    except ValueError:
        return None


# Writing


class _Bundle:
    """A ZIP while it is written, and the hashes of what is in it."""

    def __init__(self, archive: ZipFile, date: datetime | None) -> None:
        self._archive, self._sums = archive, dict[str, str]()
        is_told = date is not None and 1980 <= date.year <= 2107  # what ZIP can tell
        self._date = date.timetuple()[:6] if date is not None and is_told else (1980, 1, 1, 0, 0, 0)

    def add(self, name: str, pieces: Iterable[bytes], size: int) -> str:
        """Add a file of at most so many bytes, which decide its format; return its hash."""
        entry = ZipInfo(name, self._date)
        entry.create_system, entry.external_attr = 3, (stat.S_IFREG | 0o644) << 16  # as from Unix, plain
        entry.file_size = size
        digest = hashlib.sha256()
        with self._archive.open(entry, "w") as out:
            for piece in pieces:
                out.write(piece)
                digest.update(piece)
        self._sums[name] = digest.hexdigest()
        return self._sums[name]

    def add_bytes(self, name: str, data: bytes) -> None:
        self.add(name, [data], len(data))

    def add_sums(self) -> None:
        """Add the list of all hashes."""
        self.add_bytes(SUMS, "".join(f"{self._sums[name]}  {name}\n" for name in sorted(self._sums)).encode())


def _write(file: BinaryIO, recording: _Recording, is_trusted: bool, tell: Tell) -> None:
    told = siprec.account(recording.manifest, recording.events)
    with ZipFile(file, "w", ZIP_STORED) as archive:
        bundle = _Bundle(archive, told.at(0))
        _add_folder(bundle, recording, tell)
        bundle.add_bytes(METADATA, siprec.metadata(recording.manifest, recording.events, recording.name))
        if recording.key is not None:
            bundle.add_bytes(KEY, recording.key)
        bundle.add_bytes(REPORT, _Report(recording, told, is_trusted).page().encode())
        bundle.add_sums()


def _add_folder(bundle: _Bundle, recording: _Recording, tell: Tell) -> None:
    """Add every plain file as it is; what is not added, or changed since it was checked, is told."""
    folder, manifest = recording.folder, recording.manifest
    sizes = {entry.name: entry.stat(follow_symlinks=False).st_size for entry in os.scandir(folder)}
    expected = {text(file.get("name")): text(file.get("sha256")) for file in entries(manifest.get("files"))}
    expected[MANIFEST] = hashlib.sha256(recording.raw).hexdigest()
    if isinstance(log := manifest.get("events"), dict):
        expected[EVENTS] = text(log.get("sha256"))
    wrong = {problem.file for problem in recording.verdict.problems}
    done, of = 0, sum(sizes.values())
    for name, size in sorted(sizes.items()):
        try:
            if not evidence.is_file_name(name):
                raise OSError(errno.EINVAL, "its name is not plain")
            source = _open(folder / name)
        except OSError as error:
            recording.more.append(Problem(name, f"it is not in the bundle: {error.strerror}"))
            continue
        with source:
            digest = bundle.add(f"{recording.name}/{name}", _pieces(source, size, done, of, tell), size)
        if name not in wrong and digest != (expected.get(name) or digest):
            recording.more.append(Problem(name, "it was changed while it was exported"))
        done += size


def _pieces(source: BinaryIO, size: int, done: int, of: int, tell: Tell) -> Iterable[bytes]:
    while piece := source.read(min(_CHUNK, size)):
        yield piece
        size, done = size - len(piece), done + len(piece)
        tell(done, of)


# The report


def _plain(value: object) -> str:
    """Return text for a page: what is hidden is seen, and nothing of it is markup."""
    return html.escape(_HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", str(value)))


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]], nothing: str = "None.") -> str:
    body = "".join("<tr>" + "".join(f"<td>{_plain(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    if not body:
        return f"<p>{nothing}</p>\n" if nothing else ""
    return f"<table>\n<tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>\n{body}</table>\n"


def _facts(facts: Mapping[str, object]) -> str:
    rows = "".join(f"<tr><th>{name}</th><td>{_plain(value)}</td></tr>\n" for name, value in facts.items())
    return f"<table>\n{rows}</table>\n"


def _span(ms: int) -> str:
    """Return milliseconds as hours, minutes and seconds."""
    return f"{ms // 3_600_000}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}.{ms % 1000:03}"


class _Report:
    """The page for people."""

    def __init__(self, recording: _Recording, told: Account, is_trusted: bool) -> None:
        self._recording, self._manifest, self._told = recording, recording.manifest, told
        self._events, self._verdict, self._is_trusted = recording.events, recording.judged, is_trusted

    def page(self) -> str:
        """Return it as HTML that loads nothing and runs nothing."""
        sections = {
            "The check": self._check(),
            "The call": self._call(),
            "People": self._people(),
            "Files": self._files(),
            "Pauses": self._pauses(),
            "Losses": self._losses(),
            "Consent": self._consent(),
            "Hashes and keys": self._hashes(),
            "How to check this yourself": _ADVICE.format(name=_plain(self._recording.name)),
        }
        body = "".join(f"<h2>{head}</h2>\n{section}" for head, section in sections.items())
        return _PAGE.format(title=_plain(f"Recording {self._recording.name}"), body=body)

    def _of(self, type_: str) -> list[dict[str, Any]]:
        return [event for event in self._events if event["type"] == type_]

    def _time(self, ms: int) -> str:
        """Return a moment: since the beginning, and the time of day if that is known."""
        if (moment := self._told.at(ms)) is None:
            return _span(ms)
        return f"{_span(ms)} ({moment.isoformat(sep=' ', timespec='milliseconds').replace('+00:00', ' UTC')})"

    def _check(self) -> str:
        if not self._verdict.is_right:
            problems = _table(("File", "What is wrong"), [(p.file, p.what) for p in self._verdict.problems])
            return f'<p class="wrong">This recording is NOT RIGHT.</p>\n{problems}'
        return (
            '<p class="right">This recording is right: nothing was changed, nothing is missing.</p>\n'
            f"<p>Signed with the key <b>{_plain(self._verdict.key_id)}</b>. "
            f"{_TRUSTED if self._is_trusted else _BESIDE}</p>\n"
        )

    def _call(self) -> str:
        begins = self._of("recording_started")
        asked = begins[0]["data"] if begins else {}
        called = asked.get("participants")
        users = [text(user) for user in called] if isinstance(called, list) else []
        manifest, duration = self._manifest, self._told.duration_ms
        return _facts(
            {
                "Recording": text(manifest.get("recording_id")),
                "Call": text(manifest.get("call_id")),
                "Room": text(manifest.get("room")),
                "Kind": text(asked.get("call_type")),
                "Began": self._time(0),
                "Ended": self._time(duration),
                "Why it ended": text(manifest.get("end_reason")),
                "Asked for by": text(asked.get("by")),
                "Why": text(asked.get("reason")),
                "Users in the call": ", ".join(users),
            }
        )

    def _people(self) -> str:
        rows = []
        for person in self._told.participants.values():
            there = "; ".join(f"{self._time(since)} to {_span(until)}" for since, until in person.spans)
            rows.append((person.name, person.user_id, person.participant_id, there))
        return _table(("Name", "User", "Participant", "In the call"), rows, "Nobody is told of.")

    def _who(self, participant_id: str) -> str:
        person = self._told.participants.get(participant_id)
        return (person.name or person.user_id or participant_id) if person is not None else participant_id

    def _files(self) -> str:
        changes, rows = [event["data"] for event in self._of("size_changed")], []
        for file in entries(self._manifest.get("files")):
            changed = [change.get("to") for change in changes if change.get("file") == file.get("name")]
            sizes = [size for size in (file.get("size"), *changed) if isinstance(size, list)]
            what = [text(file.get(name)) for name in ("source", "codec", "rid")]
            what += ["\u00d7".join(str(number(side)) for side in size) for size in sizes]
            row = (
                text(file.get("name")),
                self._who(text(file.get("participant_id"))),
                ", ".join(word for word in what if word),
                self._time(number(file.get("start_ms"))),
                "it was cut off" if file.get("duration_ms") is None else _span(number(file["duration_ms"])),
                number(file.get("frames")) or "",
                number(file.get("bytes")),
                text(file.get("reason")),
                text(file.get("sha256")),
            )
            rows.append(row)
        heads = ("File", "Of", "What", "Begins", "Length", "Frames", "Bytes", "Why it ended", "SHA-256")
        return _table(heads, rows, "Nothing was recorded.")

    def _pauses(self) -> str:
        begun, rows = self._of("paused"), []
        for place, pause in enumerate(entries(self._manifest.get("pauses"))):
            by = text(begun[place]["data"].get("by")) if place < len(begun) else ""
            until = "the end" if pause.get("to_ms") is None else self._time(number(pause["to_ms"]))
            rows.append((self._time(number(pause.get("from_ms"))), until, text(pause.get("reason")), by))
        return _table(("From", "To", "Reason", "By"), rows)

    def _losses(self) -> str:
        losses = self._manifest.get("losses")
        told = losses if isinstance(losses, dict) else {}
        rows: dict[str, list[int]] = {}
        for event in self._of("loss"):
            data, at = event["data"], number(event["t_ms"])
            row = rows.setdefault(text(data.get("file")) or text(data.get("track_id")), [at, at, 0, 0, 0])
            row[1] = at
            for place, (name, _) in enumerate(_LOST):
                row[2 + place] += number(data.get(name))
        lost = [(n, self._time(r[0]), self._time(r[1]), *r[2:]) for n, r in rows.items()]
        totals = {head: number(told.get(name)) for name, head in (*_LOST, _DROPPED)}
        return _facts(totals) + _table(("File", "First", "Last", *(head for _, head in _LOST)), lost, "")

    def _consent(self) -> str:
        terms = [text(event["data"].get("consent")) for event in self._of("recording_started")]
        rows = []
        for event in self._events:
            if event["type"].startswith("consent"):
                data, at = event["data"], self._time(number(event["t_ms"]))
                rows.append((at, text(data.get("user_id")), text(data.get("answer")) or event["type"]))
        return _facts({"Terms": ", ".join(terms)}) + _table(("When", "User", "What"), rows, "")

    def _hashes(self) -> str:
        log, previous = self._manifest.get("events"), self._manifest.get("previous")
        log = log if isinstance(log, dict) else {}
        facts: dict[str, object] = {
            "SHA-256 of manifest.json": hashlib.sha256(self._recording.raw).hexdigest(),
            "Head of the chain of events": text(log.get("head")),
            "Lines in the log": number(log.get("lines")),
            "Id of the key": self._verdict.key_id,
            "Recording before this one": "none" if previous is None else _json(previous),
            "Recorded by": _json(self._manifest.get("software")),
        }
        if token := _content(self._recording.folder, evidence.TIMESTAMP):
            facts["Time stamp"] = self._stamped(token)
        return _facts(facts)

    def _stamped(self, token: bytes) -> str:
        try:
            moment, name = timestamp.check(token, self._recording.raw)
        except ValueError as error:
            return str(error)
        return f"{moment.isoformat(sep=' ')} by {name}; whether it is signed by it was not checked"


def _json(value: object) -> str:
    try:
        return json.dumps(value, sort_keys=True, ensure_ascii=False)
    except RecursionError:
        return "too deep to be shown"


# The command


def export_with_progress(
    folder: Path, output: Path | None, *, force: bool = False, key: Path | None = None
) -> int:
    """Write the bundle of a recording, with a bar on the terminal; return 0 if it is right, else 1.

    Raises:
        ValueError: there is nothing to export, or nowhere to.
        OSError: a file cannot be read or written.

    """
    folder = Path(os.path.abspath(folder))
    target = Path(os.path.abspath(output)) if output is not None else folder.parent / f"{folder.name}.zip"
    if not target.parent.is_dir():
        raise ValueError(f"--output {target}: there is no such folder")
    if folder.is_dir() and target.parent.samefile(folder):
        raise ValueError(f"--output {target}: it would be added to the recording")
    if target.is_dir() or (os.path.lexists(target) and not force):
        raise ValueError(f"{target}: it is there already" + ("" if target.is_dir() else " (--force)"))
    try:
        trusted = evidence.public_key(key) if key is not None else None
    except ValueError as error:
        raise ValueError(f"{key}: it holds no public key") from error
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("checking", total=None)

        def tell(done: int, of: int) -> None:
            progress.update(task, description=target.name, completed=done, total=of)

        verdict = export(folder, target, trusted, tell)
    lines = [f"{target}: {target.stat().st_size} bytes"]
    if not verdict.is_right:
        lines += [f"{folder}: NOT RIGHT", *(f"  {problem}" for problem in verdict.problems)]
    for line in lines:
        # Escaped: names may hold anything, and a terminal would do it.
        console.print(ascii(line)[1:-1], markup=False, highlight=False, soft_wrap=True)
    return 0 if verdict.is_right else 1
