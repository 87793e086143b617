"""Loudness follows the levels that a sender writes, quickly up and slowly down."""

import pytest

from sfu.media.audio_level import SILENT_S, AudioLevel, in_steps


def speak(level: AudioLevel, dbov: int, packets: int, start: float = 0.0) -> float:
    """Take so many packets of 20 ms; return when the last one came."""
    for number in range(packets):
        level.receive(0x80 | dbov, start + 0.02 * number)
    return start + 0.02 * (packets - 1)


def test_who_has_said_nothing_is_silent():
    assert AudioLevel().loudness(0.0) == 0.0


def test_a_voice_is_heard_within_a_few_packets():
    level = AudioLevel()
    now = speak(level, 20, 3)
    assert level.loudness(now) > 0.08
    now = speak(level, 20, 50, now)
    assert level.loudness(now) == pytest.approx(0.1, rel=0.01)


def test_a_pause_between_words_is_no_silence_but_a_long_one_is():
    level = AudioLevel()
    now = speak(level, 20, 50)
    now = speak(level, 127, 10, now)
    assert level.loudness(now) > 0.0
    now = speak(level, 127, 100, now)
    assert level.loudness(now) == 0.0


def test_who_stops_sending_is_silent_soon():
    level = AudioLevel()
    now = speak(level, 20, 50)
    assert level.loudness(now + SILENT_S - 0.01) > 0.0
    assert level.loudness(now + SILENT_S + 0.01) == 0.0


def test_the_flag_for_voice_activity_is_no_part_of_the_level():
    with_flag, without = AudioLevel(), AudioLevel()
    with_flag.receive(0x80 | 30, 0.0)
    without.receive(30, 0.0)
    assert with_flag.loudness(0.0) == without.loudness(0.0)


def test_a_quiet_room_is_no_voice():
    level = AudioLevel()
    assert level.loudness(speak(level, 60, 100)) == 0.0


@pytest.mark.parametrize(
    ("amplitude", "step"), [(0.0, 0.0), (0.005, 2**-8), (0.1, 0.125), (0.13, 0.125), (0.5, 0.5), (1.0, 1.0)]
)
def test_levels_are_told_in_steps_of_six_decibels(amplitude, step):
    assert in_steps(amplitude) == step
