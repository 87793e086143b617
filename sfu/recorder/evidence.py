"""What makes a recording prove itself: a chain of events, a manifest, a signature, and their check.

A recording is a folder. `events.jsonl` holds one line an event, each with the SHA-256 of the line before.
`manifest.json` holds the hash of every file and the end of the chain; `manifest.sig` an Ed25519 signature
(RFC 8032) of its bytes. Whoever has the public key needs nothing else to check it.
"""

import base64
import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from sfu import clock
from sfu.recorder import timestamp

FORMAT = "sfu-recording/1"

EVENTS, MANIFEST, SIGNATURE = "events.jsonl", "manifest.json", "manifest.sig"

# The answer of a time-stamping authority (RFC 3161) about the manifest; may be missing.
TIMESTAMP = "manifest.tsr"

# What stays of a recording that was erased: who did it, when and why.
TOMBSTONE, TOMBSTONE_SIGNATURE, TOMBSTONE_FORMAT = "tombstone.json", "tombstone.sig", "sfu-tombstone/1"

# What the first line of a chain names as the one before.
NOTHING = "0" * 64

_CHUNK = 1 << 20

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


def canonical(value: Any) -> bytes:
    """Return JSON that is the same for the same value: sorted names, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _as_read(data: Mapping[str, Any]) -> Any:
    """Return data as it will be read: names are text, and what is no Unicode is a question mark."""
    return json.loads(json.dumps(dict(data), ensure_ascii=False).encode("utf-8", "replace"))


class Chain:
    """Makes the lines of an event log."""

    def __init__(self) -> None:
        self.head, self.lines = NOTHING, 0

    def line(self, at: str, t_ms: int, type_: str, data: Mapping[str, Any]) -> bytes:
        """Return the next line: `at` is the time of day, `t_ms` milliseconds since the recording began."""
        entry = {
            "n": self.lines,
            "at": at,
            "t_ms": t_ms,
            "type": type_,
            "data": _as_read(data),
            "prev": self.head,
        }
        line = canonical(entry)
        self.head, self.lines = hashlib.sha256(line).hexdigest(), self.lines + 1
        return line + b"\n"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong with a recording: in which file, and what."""

    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the check of a recording found."""

    recording_id: str
    end_reason: str
    problems: tuple[Problem, ...]
    # Who signed it: the first characters of the hash of the public key.
    key_id: str = ""
    # When the manifest was stamped, and by whom it says so: true only where roots were given.
    stamped: str = ""

    @property
    def is_right(self) -> bool:
        return not self.problems


def read_chain(data: bytes) -> tuple[list[dict[str, Any]], list[str], str]:
    """Return the events of a log, what is wrong with its lines, and the hash of the last line."""
    events: list[dict[str, Any]] = []
    wrong: list[str] = []
    head = NOTHING
    lines = data.split(b"\n")
    if lines and lines[-1]:
        wrong.append(f"line {len(lines)} is cut")
    for number, line in enumerate(lines[:-1]):
        event = _event(line)
        if event is None:
            wrong.append(f"line {number + 1} is no event")
        elif event["prev"] != head:
            wrong.append(f"line {number + 1} does not follow the line before it: one of them was changed")
        elif event["n"] != number:
            wrong.append(f"line {number + 1} is numbered {event['n'] + 1}")
        if event is not None:
            events.append(event)
        head = hashlib.sha256(line).hexdigest()
    return events, wrong, head


def _event(line: bytes) -> dict[str, Any] | None:
    """Return the event in a line that is written as ours are; None if it is none."""
    try:
        event = json.loads(line)
        is_one = (
            canonical(event) == line
            and set(event) == {"n", "at", "t_ms", "type", "data", "prev"}
            and all(type(event[name]) is int for name in ("n", "t_ms"))
            and all(isinstance(event[name], str) for name in ("at", "type", "prev"))
            and isinstance(event["data"], dict)
        )
    except (ValueError, TypeError, RecursionError):
        return None
    return event if is_one else None


def is_file_name(name: str) -> bool:
    """Tell whether a file of a recording may have this name: in its folder, and plain to read."""
    return _NAME.fullmatch(name) is not None


def sha256_of(path: Path) -> tuple[str, int]:
    """Return the hash and the size of a file."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size


# Keys


def signing_key(path: Path) -> Ed25519PrivateKey:
    """Return the key in a PEM file; made, readable for its owner only, if there is none.

    The public one stands beside it, as `.pub`.

    Raises:
        ValueError: there is another kind of key in it.
        OSError: it cannot be read or written.

    """
    if not path.exists():
        pem = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        # Written beside and linked: nobody reads half a key, and of two who make one the first wins.
        descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with open(descriptor, "wb") as file:
                file.write(pem)
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(beside, path)
        finally:
            os.unlink(beside)
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"{path}: it holds no Ed25519 key")
    _publish(path.with_suffix(".pub"), public_pem(key.public_key()))
    return key


def _publish(path: Path, pem: bytes) -> None:
    """Let the public half stand beside the key, whole."""
    if path.exists() and path.read_bytes() == pem:
        return
    descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with open(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(beside, 0o644)
    os.replace(beside, path)


def public_key(path: Path) -> Ed25519PublicKey:
    """Return the public key in a PEM file.

    Raises:
        ValueError: it holds none.
        OSError: it cannot be read.

    """
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError(f"{path}: it holds no Ed25519 key")
    return key


def public_pem(key: Ed25519PublicKey) -> bytes:
    """Return a public key as a PEM file holds it."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _raw(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def key_id(key: Ed25519PublicKey) -> str:
    """Return the name of a key: the first 16 characters of the hash of its 32 bytes."""
    return hashlib.sha256(_raw(key)).hexdigest()[:16]


def sign(manifest: bytes, key: Ed25519PrivateKey) -> bytes:
    """Return what `manifest.sig` holds."""
    return _signature(key.public_key(), key.sign(manifest))


def _signature(public: Ed25519PublicKey, signature: bytes) -> bytes:
    return canonical(
        {
            "algorithm": "Ed25519",
            "key_id": key_id(public),
            "public_key": base64.b64encode(_raw(public)).decode(),
            "signature": base64.b64encode(signature).decode(),
        }
    )


# The check


def verify(
    folder: Path,
    trusted: Ed25519PublicKey | None = None,
    tsa_roots: Sequence[x509.Certificate] | None = None,
) -> Verdict:
    """Check a recording; nothing but the folder is needed, and the key that is trusted.

    Without a key the signature is checked against the one that stands beside it: that shows damage, but not
    who signed. With roots of time-stamping authorities there must be a time stamp that leads to one of them.
    """
    if not (folder / MANIFEST).exists() and (folder / TOMBSTONE).exists():
        return _verify_tombstone(folder, trusted)
    problems = _strangers(folder)
    raw, missing = _read(folder, MANIFEST)
    if raw is None:
        if not (folder / MANIFEST).exists():
            missing = [Problem(MANIFEST, "it is missing: the recording was not sealed")]
        return Verdict(folder.name, "", (*problems, *_check_log(folder, None), *missing))
    signed, signer = _check_signature(folder, (MANIFEST, SIGNATURE), raw, trusted)
    dated, stamped = _check_timestamp(folder, raw, tsa_roots)
    problems += [*signed, *dated]
    try:
        manifest = json.loads(raw)
        told = manifest["events"]
        files = [(str(f["name"]), str(f["sha256"]), int(f["bytes"])) for f in manifest["files"]]
        told = (int(told["lines"]), str(told["head"]), str(told["sha256"]), int(told["bytes"]))
        recording_id, end_reason = str(manifest["recording_id"]), str(manifest["end_reason"])
        if manifest["format"] != FORMAT:
            problems.append(Problem(MANIFEST, f"its format is {manifest['format']!r}, not {FORMAT!r}"))
        damage = [str(what) for what in manifest.get("damage", [])]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        problems.append(Problem(MANIFEST, f"it cannot be read: {type(error).__name__}"))
        return Verdict(folder.name, "", (*problems, *_check_log(folder, None)), signer, stamped)
    problems += [Problem(MANIFEST, f"when it was sealed: {what}") for what in damage]
    problems += _check_files(folder, files)
    problems += _check_log(folder, (*told, [name for name, *_ in files]))
    return Verdict(recording_id, end_reason, tuple(problems), signer, stamped)


def _check_timestamp(
    folder: Path, manifest: bytes, roots: Sequence[x509.Certificate] | None
) -> tuple[list[Problem], str]:
    """Check the time stamp of a manifest, if there is one; return what is wrong, and what it tells."""
    if not os.path.lexists(folder / TIMESTAMP):
        return ([Problem(TIMESTAMP, "it is missing")] if roots is not None else []), ""
    token, missing = _read(folder, TIMESTAMP)
    if token is None:
        return missing, ""
    try:
        at, name = timestamp.check(token, manifest, roots)
    except ValueError as error:
        return [Problem(TIMESTAMP, str(error))], ""
    return [], f"{clock.timestamp(at)} {name}"


def _read(folder: Path, name: str) -> tuple[bytes | None, list[Problem]]:
    """Return what a file of the folder itself holds, or None and why not."""
    path = folder / name
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            return None, []  # it was told with what is no plain file
        return path.read_bytes(), []
    except FileNotFoundError:
        return None, [Problem(name, "it is missing")]
    except OSError as error:
        return None, [Problem(name, f"it cannot be read: {error.strerror}")]


def _verify_tombstone(folder: Path, trusted: Ed25519PublicKey | None) -> Verdict:
    """Check what stays of a recording that was erased."""
    problems = _strangers(folder)
    raw, missing = _read(folder, TOMBSTONE)
    if raw is None:
        return Verdict(folder.name, "", (*problems, *missing))
    signed, signer = _check_signature(folder, (TOMBSTONE, TOMBSTONE_SIGNATURE), raw, trusted)
    problems += signed
    try:
        stone = json.loads(raw)
        recording_id, end_reason = str(stone["recording_id"]), f"erased by {stone['erased_by']}"
        if stone["format"] != TOMBSTONE_FORMAT:
            problems.append(Problem(TOMBSTONE, f"its format is {stone['format']!r}"))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        problems.append(Problem(TOMBSTONE, f"it cannot be read: {type(error).__name__}"))
        return Verdict(folder.name, "", tuple(problems), signer)
    with contextlib.suppress(OSError):
        left = sorted({entry.name for entry in folder.iterdir()} - {TOMBSTONE, TOMBSTONE_SIGNATURE})
        problems += [Problem(name, "it was to be erased, and is there") for name in left]
    return Verdict(recording_id, end_reason, tuple(problems), signer)


def _check_signature(
    folder: Path, names: tuple[str, str], signed: bytes, trusted: Ed25519PublicKey | None
) -> tuple[list[Problem], str]:
    name, signature_name = names
    raw, missing = _read(folder, signature_name)
    if raw is None:
        return [*missing, Problem(signature_name, f"nobody vouches for {name}")], ""
    try:
        told = json.loads(raw)
        beside = Ed25519PublicKey.from_public_bytes(base64.b64decode(told["public_key"], validate=True))
        signature = base64.b64decode(told["signature"], validate=True)
        if raw != _signature(beside, signature):
            raise ValueError("it is not as it was written")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return [Problem(signature_name, f"it cannot be read: {type(error).__name__}")], ""
    problems, signer = [], key_id(beside)
    if trusted is not None and _raw(trusted) != _raw(beside):
        problems.append(Problem(signature_name, f"signed by the key {signer}, not by {key_id(trusted)}"))
    try:
        (trusted or beside).verify(signature, signed)
    except InvalidSignature:
        problems.append(Problem(name, "the signature does not fit: one of the two was changed"))
    return problems, signer


def _strangers(folder: Path) -> list[Problem]:
    """Return what is in the folder and is no plain file: nobody knows what is behind it."""
    try:
        with os.scandir(folder) as entries:
            return [
                Problem(entry.name, "it is no plain file: a recording is a folder of nothing else")
                for entry in sorted(entries, key=lambda entry: entry.name)
                if not entry.is_file(follow_symlinks=False)
            ]
    except OSError as error:
        return [Problem(".", f"the folder cannot be read: {error.strerror}")]


def _check_files(folder: Path, files: list[tuple[str, str, int]]) -> list[Problem]:
    """Check each (name, hash, bytes), and that nothing else is there."""
    problems = []
    hashes = {digest: name for name, digest, _ in files}
    for name, expected, expected_bytes in files:
        path = folder / name
        if not is_file_name(name):
            problems.append(Problem(name, "it is no file of the folder"))
            continue
        if path.is_symlink() or (path.exists() and not path.is_file()):
            continue  # it was told with what is no plain file
        try:
            digest, size = sha256_of(path)
        except FileNotFoundError:
            problems.append(Problem(name, "it is missing"))
            continue
        except OSError as error:
            problems.append(Problem(name, f"it cannot be read: {error.strerror}"))
            continue
        if digest == expected and size == expected_bytes:
            continue
        if digest in hashes and digest != expected:
            problems.append(Problem(name, f"it holds what {hashes[digest]} should hold"))
        elif size != expected_bytes:
            problems.append(Problem(name, f"it has {size} bytes, not {expected_bytes}"))
        else:
            problems.append(Problem(name, "its content was changed"))
    known = {name for name, *_ in files} | {EVENTS, MANIFEST, SIGNATURE, TIMESTAMP}
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        there = {entry.name for entry in entries if entry.is_file(follow_symlinks=False)}
        problems += [Problem(name, "it does not belong to the recording") for name in sorted(there - known)]
    return problems


def _check_log(folder: Path, told: tuple[int, str, str, int, list[str]] | None) -> list[Problem]:
    """Check the chain, and that it ends as a manifest tells: lines, head, hash, bytes, files in order."""
    data, missing = _read(folder, EVENTS)
    if data is None:
        return missing
    events, wrong, head = read_chain(data)
    problems = [Problem(EVENTS, what) for what in wrong]
    if told is None:
        return problems
    lines, expected_head, digest, size, files = told
    if len(events) != lines or head != expected_head:
        there = f"{len(events)} lines, the manifest tells {lines}"
        return [*problems, Problem(EVENTS, f"its chain ends otherwise ({there})")]
    if hashlib.sha256(data).hexdigest() != digest or len(data) != size:
        return [*problems, Problem(EVENTS, "its content was changed")]
    begun = [event["data"].get("file") for event in events if event["type"] == "segment_started"]
    if begun != files:
        problems.append(Problem(MANIFEST, "its files are not those, in that order, that the event log began"))
    return problems
