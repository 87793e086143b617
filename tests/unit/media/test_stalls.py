"""How late a loop came, and whose fault it was."""

import contextlib
import os
import subprocess
import sys
import time

import pytest

from sfu import clock
from sfu.media import stalls
from sfu.media.stalls import Stall, StallWatch


@pytest.fixture
def watch():
    with contextlib.closing(StallWatch()) as made:
        yield made


def compute(seconds):
    """Compute for so long, by the clock of this thread."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


@contextlib.contextmanager
def one_core_for_two():
    """Share one core with a program that computes, which has begun to."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    program = "print('begun', flush=True)\nwhile True: pass"
    other = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None and other.stdout.readline()
        yield
    finally:
        os.sched_setaffinity(0, cores)
        other.kill()
        other.communicate()


def test_own_work_is_told_from_waiting(watch):
    watch.sleeps(clock.now(), 0.01)
    compute(0.06)
    stall = watch.wakes(clock.now())
    assert stall.late_s >= 0.05
    assert 0.06 <= stall.computed_s <= stall.late_s + 0.02

    watch.sleeps(clock.now(), 0.01)
    time.sleep(0.06)
    stall = watch.wakes(clock.now())
    assert stall.late_s >= 0.05
    assert stall.computed_s < 0.03


def test_a_core_that_others_have_is_waited_for(watch):
    with one_core_for_two():
        watch.sleeps(clock.now(), 0.0)
        compute(0.2)
        stall = watch.wakes(clock.now())
    assert stall.waited_s > 0.05
    assert stall.late_s >= stall.computed_s + stall.waited_s - 0.01


def test_the_worst_is_forgotten_after_two_windows(watch):
    def turn(at, late_s):
        watch.sleeps(at, 0.02)
        watch.wakes(at + 0.02 + late_s)
        return watch.worst.late_s

    assert watch.worst == Stall()
    begin = 1000.0
    assert turn(begin, 0.3) == pytest.approx(0.3)
    assert turn(begin + 1, 0.1) == pytest.approx(0.3)
    assert turn(begin + stalls.WINDOW_S + 1, 0.2) == pytest.approx(0.3)
    assert turn(begin + 2 * stalls.WINDOW_S + 2, 0.1) == pytest.approx(0.2)


def test_a_system_that_tells_nothing(monkeypatch):
    monkeypatch.setattr(stalls, "_SCHEDSTAT", "/nowhere")
    with contextlib.closing(StallWatch()) as watch:
        watch.sleeps(0.0, 0.02)
        assert watch.wakes(0.07).late_s == pytest.approx(0.05)
        assert watch.worst.waited_s == 0.0
