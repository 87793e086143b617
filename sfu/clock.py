"""The only reader of time.

Three times are never mixed: *now* is monotonic seconds, *media time* is RTP units,
*wallclock* is UTC.
"""

import time
from datetime import UTC, datetime
from typing import Final

# Seconds between the NTP epoch (1900) and the Unix epoch (1970), RFC 5905 section 6.
NTP_UNIX_OFFSET_S: Final = 2_208_988_800

_monotonic: Final = time.monotonic
_time: Final = time.time
_thread_time: Final = time.thread_time


def now() -> float:
    """Return monotonic seconds."""
    return _monotonic()


def thread_seconds() -> float:
    """Return for how long this thread has computed."""
    return _thread_time()


def wallclock() -> datetime:
    """Return the time of day in UTC."""
    return datetime.now(UTC)


def timestamp(moment: datetime) -> str:
    """Return a wallclock time as RFC 3339 text with milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def from_unix(seconds: float) -> str:
    """Return seconds since 1970 as RFC 3339 text with milliseconds."""
    return timestamp(datetime.fromtimestamp(seconds, UTC))


def unix_seconds() -> float:
    """Return the wallclock as seconds since 1970, for the claims of a token."""
    return _time()
