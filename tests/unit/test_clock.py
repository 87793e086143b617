"""The three times."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from sfu import clock


def test_now_never_goes_back():
    times = [clock.now() for _ in range(100)]
    assert times == sorted(times)


def test_the_wallclock_is_utc_and_agrees_with_the_seconds_of_a_token():
    before = clock.unix_seconds()
    moment = clock.wallclock()
    assert moment.utcoffset() == timedelta(0)
    assert before - 1 <= moment.timestamp() <= clock.unix_seconds() + 1


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2024, 2, 29, 1, 2, 3, 4_999, tzinfo=UTC), "2024-02-29T01:02:03.004Z"),
        (datetime(2024, 1, 1, tzinfo=UTC), "2024-01-01T00:00:00.000Z"),
        (datetime(2024, 1, 1, 1, tzinfo=timezone(timedelta(hours=2))), "2023-12-31T23:00:00.000Z"),
    ],
)
def test_a_timestamp_is_rfc_3339_in_utc_with_milliseconds(moment, text):
    assert clock.timestamp(moment) == text
    assert datetime.fromisoformat(text) - moment < timedelta(milliseconds=1)


def test_the_epochs_are_seventy_years_apart():
    assert timedelta(seconds=clock.NTP_UNIX_OFFSET_S) == datetime(1970, 1, 1) - datetime(1900, 1, 1)
