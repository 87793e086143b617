"""The packet path compiled: the build does what it says, and what it makes passes the same tests.

Here a few modules; `make compiled-tests` compiles all of them and takes servers and a browser to it.
"""

import os
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

import hatch_build
from hatch_build import COMPILED, CompiledBuildHook, compile_modules

ROOT = Path(__file__).resolve().parents[2]

# What only signalling reaches, or is of another package's classes.
PLAIN = {"__init__", "dtls", "peer_connection", "plane", "tcp"}

# Compiled here, each with its tests; transport_cc and history use packet.
# The last are not: they use `_rows.c`, which always is.
WITH_ROWS = ("audience", "batch", "udp")
FEW = ("clock", "media/packet", "media/history", "media/nack", "media/reception", "media/transport_cc")


def test_it_is_decided_of_each_module_whether_it_is_compiled():
    modules = {path.stem for path in (ROOT / "sfu/media").glob("*.py")}
    compiled = {name.removeprefix("media/") for name in COMPILED if name.startswith("media/")}
    assert modules == compiled | PLAIN
    assert not compiled & PLAIN
    sources = {name: (ROOT / f"sfu/{name}.py").read_text() for name in COMPILED}
    # The ports are opened and closed by coroutines that nobody cancels.
    assert [name for name, source in sources.items() if "async def" in source] == ["media/ports"]


def test_compiled_modules_pass_the_tests_of_their_sources(tmp_path):
    tree = tmp_path / "tree"
    for name in ("sfu", "tests/unit/media"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tree)
    report = tmp_path / "report.html"
    for made, place in compile_modules(ROOT, tmp_path / "build", FEW, report).items():
        shutil.copy(made, tree / place)
    # The numbers of a packet have types that mypyc knows: sums of objects cost a tenth of all.
    left = unescape(report.read_text())
    assert "sfu/media/history.py" in left
    assert not [sign for sign in "+-&" if f'Generic "{sign}"' in left]
    where = "import importlib, sys; print([importlib.import_module(n).__file__[-3:] for n in sys.argv[1:]])"
    named = ["sfu." + name.replace("/", ".") for name in FEW]
    assert run(tree, "-c", where, *named).strip() == str([".so"] * len(FEW))
    tests = [f"tests/unit/media/test_{name.removeprefix('media/')}.py" for name in (*FEW[1:], *WITH_ROWS)]
    told = run(tree, "-m", "pytest", "-v", "-p", "no:cacheprovider", *tests)
    assert "test_each_row_has_its_own_ssrc_and_number[in one call-4] PASSED" in told
    assert " passed" in told.splitlines()[-1]


def run(tree: Path, *arguments: str) -> str:
    found = subprocess.run(
        [sys.executable, *arguments],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


# The hook


@pytest.fixture
def hook(monkeypatch):
    """Give the hook of a build in which nothing can be compiled."""
    monkeypatch.setattr(hatch_build, "COMPILED", ("clock",))
    monkeypatch.setenv("CC", "/nonexistent/cc")
    monkeypatch.delenv("SFU_COMPILE", raising=False)
    return CompiledBuildHook(str(ROOT), {}, None, None, str(ROOT / "dist"), "wheel")


NOTHING = {"pure_python": True, "infer_tag": False, "force_include": {}}


def initialize(hook: CompiledBuildHook, version: str = "standard") -> dict:
    data = NOTHING | {"force_include": {}}
    hook.initialize(version, data)
    hook.finalize(version, data, "")
    return data


def test_without_a_compiler_the_wheel_is_plain_and_says_so(hook, capsys):
    assert initialize(hook) == NOTHING
    assert "plain Python is installed" in capsys.readouterr().err


def test_whoever_insists_is_told_that_it_fails(hook, monkeypatch):
    monkeypatch.setenv("SFU_COMPILE", "1")
    with pytest.raises(RuntimeError, match="cannot be compiled"):
        initialize(hook)


def test_whoever_does_not_want_it_waits_for_nothing(hook, monkeypatch, capsys):
    monkeypatch.setenv("SFU_COMPILE", "0")
    assert hook.dependencies() == []
    assert initialize(hook) == NOTHING
    assert capsys.readouterr().err == ""


def test_an_editable_installation_is_never_compiled(hook, capsys):
    assert initialize(hook, "editable") == NOTHING
    assert capsys.readouterr().err == ""


def test_what_is_compiled_is_in_the_wheel(hook, monkeypatch):
    monkeypatch.delenv("CC")
    data = NOTHING | {"force_include": {}}
    hook.initialize("standard", data)
    found = data.pop("force_include")
    assert data == {"pure_python": False, "infer_tag": True}
    assert {Path(place).parent.as_posix() for place in found.values()} <= {"sfu", "sfu/media", "."}
    assert all(Path(made).is_file() for made in found)
    hook.finalize("standard", data, "")
    assert not any(Path(made).exists() for made in found)
