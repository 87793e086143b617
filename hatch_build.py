"""Builds the wheel: where a C compiler is found, with the packet path compiled by mypyc.

The source stays what it is: mypyc compiles typed Python, and beside each compiled module its source is
installed too. What is done once for each receiver of a packet is `_rows.c` then, called through cffi.
Without a compiler, or with SFU_COMPILE=0, the wheel is plain Python and does the same for more CPU;
SFU_COMPILE=1 makes a build fail that cannot compile. An editable installation is never compiled.

    python hatch_build.py TREE [REPORT.html]

compiles in another copy of the source, which is then run as it stands. In the report stands, line by line,
what mypyc had to leave to Python: a number of unknown type, a method that it does not know.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# What a packet passes, what passes once for each of many peers, and what an offer passes while packets wait.
# No coroutine that may be cancelled: mypyc 2.4 crashes when one is looked at afterwards.
COMPILED = (
    "clock",
    "counters",
    "token_bucket",
    "media/agenda",
    "media/allocation",
    "media/audience",
    "media/audio_level",
    "media/bandwidth",
    "media/batch",
    "media/codecs",
    "media/datagrams",
    "media/dependency",
    "media/endpoint",
    "media/fan_out",
    "media/history",
    "media/ice",
    "media/kernel",
    "media/keyframes",
    "media/leg",
    "media/nack",
    "media/negotiation",
    "media/number_bank",
    "media/outlet",
    "media/pacing",
    "media/packet",
    "media/picture_ids",
    "media/ports",
    "media/probing",
    "media/profile",
    "media/quality",
    "media/reception",
    "media/rewriter",
    "media/room",
    "media/rtcp",
    "media/rtp_session",
    "media/sdp",
    "media/scalability",
    "media/slots",
    "media/srtp",
    "media/stalls",
    "media/subscriptions",
    "media/thinning",
    "media/track",
    "media/transport_cc",
    "media/udp",
)

# mypyc is a part of mypy, of the version with which the tests were run; setuptools calls the C compiler.
REQUIRES = ["mypy==2.4.*", "setuptools>=65", "cffi>=1.16"]

# The types of other packages are not needed, and may be missing: what is not known is Any. Only a class whose
# base is another package's cannot be compiled so.
_PROGRAM = """
import os, sys
from pathlib import Path
from cffi import FFI
from mypyc.build import mypycify
from setuptools import setup
out, report, *sources = sys.argv[1:]
rows, builder = Path("sfu/media/_rows.c").absolute(), FFI()
options = ["--config-file=", "--follow-imports=silent", "--ignore-missing-imports",
    "--disallow-subclassing-any", "--python-version=3.11", *(["-a", report] if report else [])]
extensions = mypycify(options + sources, opt_level="2", debug_level="0", target_dir=out + "/c")
if sys.platform == "linux":  # whose system calls are in it
    builder.cdef(rows.with_suffix(".h").read_text())
    flags = {"include_dirs": [str(rows.parent)], "extra_compile_args": ["-O2"]}
    builder.set_source("sfu.media._rows", rows.read_text(), **flags)
    extensions.append(builder.distutils_extension(out + "/r"))
os.chdir(out)  # away from the project's settings, which are not for setuptools
arguments = ["--quiet", "build_ext", "--build-lib", out + "/lib", "--build-temp", out + "/o"]
setup(name="sfu", packages=[], py_modules=[], ext_modules=extensions, script_args=arguments)
"""


class CompiledBuildHook(BuildHookInterface[Any]):
    """Adds the compiled modules to the wheel."""

    PLUGIN_NAME = "custom"

    def _is_wanted(self) -> bool:
        return self.target_name == "wheel" and os.environ.get("SFU_COMPILE") != "0"

    def dependencies(self) -> list[str]:
        """Return what the compiler needs."""
        return REQUIRES if self._is_wanted() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and name what came of it."""
        if version == "editable" or not self._is_wanted():
            return
        folder = tempfile.TemporaryDirectory(prefix="sfu-build-")
        try:
            found = compile_modules(Path(self.root), Path(folder.name))
        except (OSError, subprocess.CalledProcessError) as error:
            folder.cleanup()
            said = getattr(error, "stderr", None) or str(error)
            if os.environ.get("SFU_COMPILE") == "1":
                raise RuntimeError(f"the packet path cannot be compiled:\n{said}") from error
            self.app.display_warning(f"not compiled, plain Python is installed: {said[-1000:]}")
            return
        # Until the wheel is written; then `finalize` removes it.
        self._folder = folder
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["force_include"] |= found

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was only needed for the wheel."""
        if hasattr(self, "_folder"):
            self._folder.cleanup()


def compile_modules(
    root: Path, folder: Path, names: Sequence[str] | None = None, report: Path | None = None
) -> dict[str, str]:
    """Compile modules of a source tree in a folder; return where each file is and where it belongs.

    `report`: where it is to be written what was left to Python.

    Raises:
        CalledProcessError: there is no compiler, or it fails; `stderr` tells why.

    """
    sources = [f"sfu/{name}.py" for name in names or COMPILED]
    told = str(report.absolute()) if report is not None else ""
    command = [sys.executable, "-c", _PROGRAM, str(folder), told, *sources]
    subprocess.run(command, check=True, capture_output=True, text=True, cwd=root)
    library = folder / "lib"
    return {str(path): str(path.relative_to(library)) for path in library.rglob("*") if path.is_file()}


def main(tree: Path, report: Path | None = None) -> None:
    """Compile the modules of a tree, and put them beside their sources."""
    with tempfile.TemporaryDirectory() as folder:
        for made, place in compile_modules(tree, Path(folder), report=report).items():
            shutil.copy(made, tree / place)


if __name__ == "__main__":
    main(*(Path(each) for each in sys.argv[1:3]))
