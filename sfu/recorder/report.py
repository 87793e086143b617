"""What `sfu recordings` does and prints."""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from cryptography.x509 import load_pem_x509_certificates
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from sfu.recorder.compose import FORMATS, Plan, compose
from sfu.recorder.evidence import EVENTS, MANIFEST, TOMBSTONE, Verdict, public_key, verify


def found_in(paths: Iterable[Path]) -> list[Path]:
    """Return the recordings in folders: a folder that is one, or those that a folder holds.

    Raises:
        ValueError: there is none.

    """
    found: list[Path] = []
    for path in paths:
        inside = [path] if _is_recording(path) else sorted(p for p in _folders(path) if _is_recording(p))
        if not inside:
            raise ValueError(f"{path}: there is no recording")
        found += inside
    return found


def _is_recording(path: Path) -> bool:
    return any((path / name).exists() for name in (MANIFEST, EVENTS, TOMBSTONE))


def _folders(path: Path) -> Iterable[Path]:
    return path.iterdir() if path.is_dir() else ()


def run(
    paths: Iterable[Path],
    key: Path | None,
    tsa_roots: Path | None = None,
    *,
    as_json: bool,
    write: Callable[[str], None],
) -> int:
    """Check recordings and tell of each; return 0 if all are right, else 1.

    Raises:
        ValueError: there is none, or the key or the roots are none.
        OSError: the key or the roots cannot be read.

    """
    try:
        roots = load_pem_x509_certificates(tsa_roots.read_bytes()) if tsa_roots is not None else None
    except ValueError as error:
        raise ValueError(f"{tsa_roots}: it holds no certificates") from error
    try:
        trusted = public_key(key) if key is not None else None
    except ValueError as error:
        raise ValueError(f"{key}: it holds no public key") from error
    is_right = True
    for folder in found_in(paths):
        verdict = verify(folder, trusted, roots)
        is_right = is_right and verdict.is_right
        write(_as_json(folder, verdict) if as_json else _as_text(folder, verdict, key is not None))
    return 0 if is_right else 1


def _as_json(folder: Path, verdict: Verdict) -> str:
    return json.dumps(
        {
            "folder": str(folder),
            "recording_id": verdict.recording_id,
            "is_right": verdict.is_right,
            "end_reason": verdict.end_reason,
            "key_id": verdict.key_id,
            "stamped": verdict.stamped,
            "problems": [{"file": problem.file, "what": problem.what} for problem in verdict.problems],
        }
    )


def _as_text(folder: Path, verdict: Verdict, is_trusted: bool) -> str:
    folder_name, end_reason = _plain(str(folder)), _plain(verdict.end_reason)
    if verdict.is_right:
        signed = f"signed by {verdict.key_id}" + ("" if is_trusted else " (no --key: anybody could have)")
        return f"{folder_name}: right, {signed}, ended by {end_reason}"
    lines = [f"  {_plain(problem.file)}: {_plain(problem.what)}" for problem in verdict.problems]
    return "\n".join([f"{folder_name}: NOT RIGHT", *lines])


def _plain(text: str) -> str:
    """Return text that says on a terminal what it is: a recording may hold anything."""
    return "".join(c if c.isascii() and c.isprintable() else ascii(c)[1:-1] for c in text)


def compose_with_progress(
    folder: Path, output: Path | None, *, layout: str, format_: str, size: str, fps: int
) -> None:
    """Make one file of a recording, with a bar on the terminal.

    Raises:
        ValueError: a recording that is none, or options that are none.
        OSError: a file cannot be read or written.

    """
    if layout not in ("grid", "speaker"):
        raise ValueError(f"--layout {layout}: grid and speaker are known")
    if format_ not in FORMATS:
        raise ValueError(f"--format {format_}: {' and '.join(FORMATS)} are known")
    found = re.fullmatch(r"(\d{2,4})x(\d{2,4})", size)
    if found is None or any(int(side) % 2 or int(side) < 64 for side in found.groups()):
        raise ValueError(f"--size {size}: two even numbers of 64 and more, as 1280x720")
    target = output or folder.parent / f"{folder.name}.{format_}"
    if not target.parent.is_dir():
        raise ValueError(f"--output {target}: there is no such folder")
    if folder.resolve() in target.resolve().parents:
        raise ValueError(f"--output {target}: it is in the recording, which is sealed")
    plan = Plan(layout, format_, int(found[1]), int(found[2]), fps)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(target.name, total=1.0)
        compose(folder, target, plan, lambda done: progress.update(task, completed=done))
    console.print(f"{target}: {target.stat().st_size} bytes", highlight=False)
