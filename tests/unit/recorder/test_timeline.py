"""When frames were captured: sound and picture meet by the clock of their sender, whatever it shows."""

import random

import pytest
from hypothesis import given, settings, strategies as st

from sfu.recorder.timeline import Line, Report, map_files, reports_by_ssrc

VIDEO, AUDIO = 90_000, 48_000
HOUR = 3600

# The sender's clock when the recording begins; nobody knows but by its reports.
NTP = 3_900_000_000.0


class Track:
    """A stream of a sender whose media clock goes by a rate of its own."""

    def __init__(
        self,
        ssrc: int = 1,
        clock_rate: int = VIDEO,
        *,
        skew: float = 0.0,
        rtp: int = 12_345,
        ntp: float = NTP,
        participant: str = "par_1",
    ) -> None:
        self.ssrc, self.clock_rate, self.participant = ssrc, clock_rate, participant
        self._skew, self._rtp, self._ntp = skew, rtp, ntp

    def ticks(self, at_s: float) -> int:
        """The media time, beyond 32 bits."""
        return self._rtp + round(at_s * self.clock_rate * (1 + self._skew))

    def file(self, at_s: float = 0.0, delay_s: float = 0.0) -> dict:
        """What the manifest tells of a file that begins with the frame of a moment."""
        return {
            "name": f"{self.ssrc}.mkv",
            "ssrc": self.ssrc,
            "participant_id": self.participant,
            "start_ms": round((at_s + delay_s) * 1000),
            "rtp_start": self.ticks(at_s) & 0xFFFFFFFF,
            "clock_rate": self.clock_rate,
        }

    def report(self, at_s: float, delay_s: float = 0.0) -> dict:
        """What the log keeps of a sender report."""
        data = {
            "ssrc": self.ssrc,
            "ntp": int((self._ntp + at_s) * 2**32),
            "rtp_timestamp": self.ticks(at_s) & 0xFFFFFFFF,
            "heard_ms": round((at_s + delay_s) * 1000),
        }
        return {"type": "sender_report", "data": data}

    def media_s(self, at_s: float, since_s: float = 0.0) -> float:
        """Where the frame of a moment stands in the file that began at another."""
        return (self.ticks(at_s) - self.ticks(since_s)) / self.clock_rate


def mapped(track: Track, reports: list[dict], at_s: float = 0.0, delay_s: float = 0.0) -> Line:
    """The line of the one file of a track."""
    file = track.file(at_s, delay_s)
    return map_files([file], reports)[file["name"]]


def near(seconds: float):
    return pytest.approx(seconds, abs=0.001)


# Few reports


def test_without_reports_the_arrival_counts():
    track = Track()
    assert mapped(track, [], 7.0, 0.25) == Line(7.25, 1.0)


def test_other_events_are_no_reports():
    events = [{"type": "speakers", "data": {"speakers": []}}, Track().report(1.0, 0.5)]
    assert reports_by_ssrc(events) == {1: [Report(NTP + 1, 12_345 + VIDEO, 1.5)]}
    assert map_files([], events) == {}


def test_one_report_is_enough():
    """The first frame came late; the report tells when it was captured."""
    track = Track()
    line = mapped(track, [track.report(9.0, 0.05)], 3.0, 0.9)
    assert line.at(0.0) == near(3.05)
    assert line.at(60.0) == near(63.05)


def test_the_report_that_was_on_its_way_for_the_shortest_time_tells():
    track = Track()
    reports = [track.report(at, delay) for at, delay in ((1.0, 0.4), (2.0, 0.02), (3.0, 1.0))]
    assert mapped(track, reports).start_s == near(0.02)


def test_the_shortest_way_of_a_participant_is_that_of_all_its_tracks():
    """Both share a clock."""
    video, audio = Track(1, VIDEO), Track(2, AUDIO, rtp=99)
    lines = map_files(
        [video.file(delay_s=0.6), audio.file(delay_s=0.1)],
        [video.report(1.0, 0.5), audio.report(1.0, 0.03)],
    )
    assert [line.start_s for line in lines.values()] == [near(0.03), near(0.03)]


def test_a_report_may_tell_of_a_time_before_the_file():
    track = Track(rtp=50)
    assert mapped(track, [track.report(2.0)], 30.0, 0.3).start_s == near(30.0)


def test_two_files_of_a_track_lie_on_one_line():
    track = Track(skew=300e-6)
    files = [track.file(0.0, 0.2), track.file(400.0, 0.7) | {"name": "2.mkv"}]
    lines = map_files(files, [track.report(at) for at in range(1, 800, 5)])
    assert lines["1.mkv"].at(track.media_s(500.0)) == near(500.0)
    assert lines["2.mkv"].at(track.media_s(500.0, 400.0)) == near(500.0)


# The rate


@pytest.mark.parametrize("skew", [500e-6, 120e-6, -120e-6, -500e-6])
@pytest.mark.parametrize("clock_rate", [VIDEO, AUDIO])
def test_the_rate_of_a_clock_is_found(skew, clock_rate):
    """An hour later it is still known when a frame was captured."""
    track = Track(clock_rate=clock_rate, skew=skew)
    line = mapped(track, [track.report(at) for at in range(5, HOUR, 5)])
    assert line.rate == pytest.approx(1 / (1 + skew), abs=1e-7)
    assert line.at(track.media_s(HOUR)) == near(HOUR)


@pytest.mark.parametrize(("count", "is_found"), [(1, False), (2, False), (3, False), (4, True), (5, True)])
def test_of_fewer_than_four_reports_no_rate_is_made(count, is_found):
    track = Track(skew=400e-6)
    line = mapped(track, [track.report(10.0 * number) for number in range(count)])
    assert line.rate == (pytest.approx(1 / 1.0004, abs=1e-6) if is_found else 1.0)


def test_of_reports_of_a_moment_no_rate_is_made():
    """So close together a rounded time would be a wrong clock."""
    track = Track(skew=400e-6)
    assert mapped(track, [track.report(1 + number / 10) for number in range(40)]).rate == 1.0


def test_the_same_report_again_and_again_is_one():
    track = Track()
    assert mapped(track, [track.report(4.0, 0.1)] * 6, 2.0, 0.1) == Line(near(2.1), 1.0)


@pytest.mark.parametrize("skew", [0.5, 0.01, -0.01, -0.5])
def test_a_rate_that_no_clock_has_is_not_believed(skew):
    """It is off by a thousandth at the most."""
    track = Track(skew=skew)
    assert abs(mapped(track, [track.report(at) for at in range(0, 20, 2)]).rate - 1) <= 0.001 + 1e-12


# 32 bits


@pytest.mark.parametrize("clock_rate", [VIDEO, AUDIO])
@pytest.mark.parametrize("skew", [0.0, 200e-6, -200e-6])
def test_reports_go_on_beyond_32_bits(clock_rate, skew):
    """Sound begins anew after 24 hours, pictures after 13; this call takes 60."""
    track = Track(clock_rate=clock_rate, skew=skew)
    line = mapped(track, [track.report(at) for at in range(10, 60 * HOUR, 600)])
    for hours in (0, 12, 14, 23, 25, 59):
        assert line.at(track.media_s(hours * HOUR)) == near(hours * HOUR)


@pytest.mark.parametrize("clock_rate", [VIDEO, AUDIO])
def test_reports_may_be_far_apart(clock_rate):
    """Whoever was away for longer than 32 bits of media time comes back at the right one."""
    track = Track(clock_rate=clock_rate, skew=20e-6)
    line = mapped(track, [track.report(HOUR * at) for at in (1, 2, 30, 31, 70)])
    assert line.at(track.media_s(70 * HOUR)) == near(70 * HOUR)


@pytest.mark.parametrize("clock_rate", [VIDEO, AUDIO])
@pytest.mark.parametrize("before", [0, 1, 30_000, 2**31 - 1, 2**31])
@pytest.mark.parametrize("count", [1, 12])
def test_a_file_may_begin_before_32_bits_end_and_its_reports_come_after(clock_rate, before, count):
    track = Track(clock_rate=clock_rate, rtp=2**32 - before)
    reports = [track.report(5.0 + at, 0.04) for at in range(count)]
    line = mapped(track, reports, 0.0, 0.3)
    assert line.at(track.media_s(8.0)) == near(8.04)


def test_a_file_may_begin_after_32_bits_end_and_its_first_report_come_before():
    track = Track(rtp=2**32 - 10 * VIDEO)
    line = mapped(track, [track.report(float(at)) for at in range(8, 30, 2)], 12.0, 0.5)
    assert line.at(track.media_s(20.0, 12.0)) == near(20.0)


# What is believed


def test_reports_of_another_ssrc_do_not_count():
    """Neither of a stranger nor of the same participant."""
    track = Track(1)
    strangers = [Track(2, rtp=5).report(1.0, 0.01), Track(3, ntp=77.0).report(2.0, 0.0)]
    assert mapped(track, strangers, 4.0, 0.5) == Line(4.5, 1.0)
    assert mapped(track, [*strangers, track.report(6.0, 0.2)], 4.0, 0.5).start_s == near(4.2)


@pytest.mark.parametrize("days", [-40_000, -3, 3, 4_000])
def test_a_clock_that_is_days_away_is_as_good(days):
    """Only differences count."""
    track = Track(ntp=NTP + days * 24 * HOUR, skew=100e-6)
    line = mapped(track, [track.report(at, 0.05) for at in range(5, 200, 5)], 0.0, 0.3)
    assert line.at(track.media_s(100.0)) == near(100.05)


@pytest.mark.parametrize(("off_s", "is_believed"), [(1.9, True), (-1.9, True), (2.1, False), (-2.1, False)])
def test_what_differs_from_the_arrival_by_more_than_two_seconds_is_not_believed(off_s, is_believed):
    track = Track()
    reports = [track.report(at, 0.0) for at in range(10, 60, 5)]
    line = mapped(track, reports, 5.0, off_s)
    assert line == (Line(near(5.0), near(1.0)) if is_believed else Line(round(5 + off_s, 3), 1.0))


def test_a_media_time_that_begins_anew_is_not_believed():
    """Its reports speak of another one than the file."""
    track, anew = Track(rtp=5), Track(rtp=3_000_000_000)
    assert mapped(track, [anew.report(9.0)], 4.0, 0.5) == Line(4.5, 1.0)


def test_two_participants_do_not_share_a_clock():
    """One is far away and its clock is wrong; the other's files are where they were."""
    near_by, far = Track(1, participant="par_1"), Track(2, participant="par_2", ntp=NTP + 500, skew=300e-6)
    files = [near_by.file(0.0, 0.02), far.file(1.0, 0.9)]
    reports = [near_by.report(at, 0.01) for at in range(5, 60, 5)]
    others = [far.report(at, 0.8) for at in range(5, 60, 5)]
    both = map_files(files, [*reports, *others])
    assert both["1.mkv"] == map_files(files[:1], reports)["1.mkv"]
    assert both["2.mkv"] == map_files(files[1:], others)["2.mkv"]
    assert both["1.mkv"].at(near_by.media_s(30.0)) == near(30.01)
    assert both["2.mkv"].at(far.media_s(30.0, 1.0)) == near(30.8)


SKEWS = st.floats(-500e-6, 500e-6)
DELAYS = st.floats(0.0, 1.9)
# The pauses between reports, in seconds: of fewer than ten seconds no rate is found that holds for minutes.
PAUSES = st.lists(st.floats(2.5, 10.0), min_size=5, max_size=40)


@st.composite
def tracks(draw, ssrc: int, clock_rate: int, ntp: float):
    """A track, its file, and its reports as they were heard."""
    track = Track(ssrc, clock_rate, skew=draw(SKEWS), rtp=draw(st.integers(0, 2**32 - 1)), ntp=ntp)
    chance = random.Random(draw(st.integers(0, 1000)))
    most_s, at_s = draw(DELAYS), draw(st.floats(0.0, 5.0))
    begins_s = draw(st.floats(0.0, 5.0))
    reports = []
    for pause in draw(PAUSES):
        at_s += pause
        reports.append(track.report(at_s, chance.uniform(0, most_s)))
    return track, begins_s, track.file(begins_s, draw(DELAYS)), reports


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.data(), st.floats(0.0, 4e9))
def test_sound_and_picture_of_a_moment_meet(data, ntp):
    """Whatever their clocks, and however long anything was on its way."""
    video, video_begins, video_file, video_reports = data.draw(tracks(1, VIDEO, ntp))
    audio, audio_begins, audio_file, audio_reports = data.draw(tracks(2, AUDIO, ntp))
    reports = sorted([*video_reports, *audio_reports], key=lambda report: report["data"]["heard_ms"])
    lines = map_files([video_file, audio_file], reports)
    for at_s in (5.0, data.draw(st.floats(5.0, 150.0)), 150.0):
        seen = lines["1.mkv"].at(video.media_s(at_s, video_begins))
        heard = lines["2.mkv"].at(audio.media_s(at_s, audio_begins))
        assert abs(seen - heard) <= 0.001
        # Nothing was captured after it came, nor long before.
        assert at_s - 0.002 <= seen <= at_s + 1.9 + 0.002
