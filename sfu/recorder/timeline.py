"""When each frame of a recording was captured, on one clock: that of the recording.

Files hold the media time of each frame. The sender's reports (RFC 3550 section 6.4.1) say what the sender's
own clock showed at a media time; both tracks of one participant share that clock, so sound and picture meet.
How far that clock is from the recording's is told by the report that was the shortest time on its way.

Pure: the manifest and the events in, times out.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sfu.media.packet import timestamp_delta

# So many reports tell the real rate of a sender's media clock; with fewer the nominal one is taken.
_REPORTS_FOR_RATE = 4

# Over less than this the rate cannot be told.
_LEAST_SPAN_S = 8.0

# No oscillator is off by more: a rate that is was not measured but made up.
_MAX_SKEW = 0.001

# A sender's clock that leads so far away from when its frames came is not believed.
_MAX_DISAGREEMENT_S = 2.0

_NTP_FRACTION = 2**32


@dataclass(frozen=True, slots=True)
class Report:
    """What a sender said: its clock in seconds, the media time then, and when that was heard."""

    ntp_s: float
    rtp_timestamp: int
    heard_s: float


@dataclass(frozen=True, slots=True)
class Line:
    """The line from media time, in seconds since the first frame of a file, to the recording's time."""

    start_s: float
    rate: float

    def at(self, media_s: float) -> float:
        """Return when a frame was captured, in seconds since the recording began."""
        return self.start_s + media_s * self.rate


def reports_by_ssrc(events: Iterable[Mapping[str, Any]]) -> dict[int, list[Report]]:
    """Return the sender reports in an event log, by SSRC."""
    found: dict[int, list[Report]] = {}
    for event in events:
        if event["type"] == "sender_report":
            data = event["data"]
            report = Report(data["ntp"] / _NTP_FRACTION, data["rtp_timestamp"], data["heard_ms"] / 1000)
            found.setdefault(data["ssrc"], []).append(report)
    return found


def map_files(files: Iterable[Mapping[str, Any]], events: Iterable[Mapping[str, Any]]) -> dict[str, Line]:
    """Return the mapping of each file of a manifest, by name."""
    files, reports = list(files), reports_by_ssrc(events)
    of_participant: dict[str, list[Report]] = {}
    for ssrc, participant_id in {(file["ssrc"], file["participant_id"]) for file in files}:
        of_participant.setdefault(participant_id, []).extend(reports.get(ssrc, []))
    mappings = {}
    for file in files:
        arrived = Line(file["start_ms"] / 1000, 1.0)
        told = reports.get(file["ssrc"], [])
        line = _sender_line(file["rtp_start"], file["clock_rate"], told, arrived.start_s)
        if line is None:
            mappings[file["name"]] = arrived
            continue
        delay = min(report.heard_s - report.ntp_s for report in of_participant[file["participant_id"]])
        start, rate = line
        mapped = Line(start + delay, rate)
        is_likely = abs(mapped.start_s - arrived.start_s) < _MAX_DISAGREEMENT_S
        mappings[file["name"]] = mapped if is_likely else arrived
    return mappings


def _sender_line(
    rtp_start: int, clock_rate: int, reports: list[Report], start_s: float
) -> tuple[float, float] | None:
    """Return the sender's clock at the first frame, and its seconds for each second of media time."""
    if not reports:
        return None
    # The report next to the file's beginning is less than half a turn of the 32 bits away from it.
    near = min(reports, key=lambda report: abs(report.heard_s - start_s))
    near_media = timestamp_delta(near.rtp_timestamp, rtp_start) / clock_rate
    points = [(near_media + _turned(report, near, clock_rate), report.ntp_s) for report in reports]
    count = len(points)
    mean_media = sum(media for media, _ in points) / count
    mean_ntp = sum(ntp for _, ntp in points) / count
    spread = sum((media - mean_media) ** 2 for media, _ in points)
    rate = 1.0
    if count >= _REPORTS_FOR_RATE and points[-1][0] - points[0][0] >= _LEAST_SPAN_S:
        rate = sum((media - mean_media) * (ntp - mean_ntp) for media, ntp in points) / spread
        rate = min(1 + _MAX_SKEW, max(1 - _MAX_SKEW, rate))
    return mean_ntp - mean_media * rate, rate


def _turned(report: Report, near: Report, clock_rate: int) -> float:
    """Return the media time from one report to another, however often 32 bits have turned between them."""
    turn = 2**32 / clock_rate
    passed = timestamp_delta(report.rtp_timestamp, near.rtp_timestamp) / clock_rate
    return passed + turn * round((report.ntp_s - near.ntp_s - passed) / turn)
