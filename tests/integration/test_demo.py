"""`sfu demo` shows that it works, and says so when it does not."""

import asyncio
import copy
import json
import os
import sys

import pytest

from sfu.demo import problems

RIGHT = {
    "end_reasons": ["completed", "completed"],
    "packets_forwarded": 500,
    "server_exit_code": 0,
    "ends": [
        {
            "name": name,
            "frames_per_second": [19, 20, 20],
            "frames_decoded": 60,
            "counter_gaps": 0,
            "frames_unreadable": 0,
            "tone_hz": 440.5,
            "tone_expected_hz": 440.0,
            "packets_lost": 0,
        }
        for name in ("ada", "bob")
    ],
    "recording": {
        "problems": [],
        "files": [
            {"file": f"{number}.mk{kind}", "pictures": pictures, "holes": 0}
            for number, (kind, pictures) in enumerate([("v", 60), ("v", 59), ("a", 0), ("a", 0)])
        ],
    },
}


def test_a_report_in_which_all_is_right_has_no_problem():
    assert problems(RIGHT, 3) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"end_reasons": ["completed", "cancelled"]}, "cancelled"),
        ({"packets_forwarded": 0}, "forwarded nothing"),
        ({"server_exit_code": 1}, "exited with 1"),
    ],
)
def test_what_is_wrong_with_the_call_is_told(change, told):
    assert any(told in problem for problem in problems({**RIGHT, **change}, 3))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"frames_per_second": [19, 0, 20]}, "second without a picture"),
        ({"frames_decoded": 10}, "only 10 frames"),
        ({"counter_gaps": 2}, "missed 2 frames"),
        ({"frames_unreadable": 1}, "could not read 1"),
        ({"tone_hz": 0.0}, "heard 0.0 Hz"),
        ({"packets_lost": 3}, "lost 3 packets"),
    ],
)
def test_what_is_wrong_at_one_end_is_told_with_its_name(change, told):
    report = copy.deepcopy(RIGHT)
    report["ends"][1].update(change)
    (problem,) = problems(report, 3)
    assert told in problem and "bob" in problem


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"problems": ["0001-video-vp8.mkv: its content was changed"]}, "its content was changed"),
        ({"files": []}, "has 0 files"),
    ],
)
def test_what_is_wrong_with_the_recording_is_told(change, told):
    report = copy.deepcopy(RIGHT)
    report["recording"] |= change
    (problem,) = problems(report, 3)
    assert told in problem


@pytest.mark.parametrize(("change", "told"), [({"holes": 2}, "2 pictures"), ({"pictures": 9}, "only 9")])
def test_what_is_wrong_with_a_recorded_file_is_told(change, told):
    report = copy.deepcopy(RIGHT)
    report["recording"]["files"][1] |= change
    (problem,) = problems(report, 3)
    assert told in problem and "1.mkv" in problem


async def test_the_demo_runs_and_both_ends_decode_every_second(tmp_path):
    options = ("--seconds", "3", "--json", "--recordings", str(tmp_path))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sfu", "demo", *options, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    report = json.loads(output)
    assert (process.returncode, report["problems"]) == (0, [])
    assert all(count > 0 for end in report["ends"] for count in end["frames_per_second"])


async def test_a_demo_whose_server_cannot_start_fails_and_says_why(tmp_path):
    """The server is another process: here it finds a broken sfu before the real one."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif 'serve' in sys.argv or 'serve' in sys.orig_argv:\n    sys.exit('broken on purpose')\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "sfu",
        "demo",
        "--json",
        "--recordings",
        str(tmp_path),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:."},
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    report = json.loads(output)
    assert process.returncode == 1
    assert "did not start" in report["problems"][0]
