"""Which bytes of a file a player wants."""

import pytest

from sfu.api.byte_range import byte_range


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", (0, 100, False)),
        ("bytes=0-", (0, 100, True)),
        ("bytes=10-19", (10, 20, True)),
        ("bytes=90-400", (90, 100, True)),
        ("bytes=-30", (70, 100, True)),
        ("bytes=-400", (0, 100, True)),
        ("bytes=100-", None),
        ("bytes=-0", None),
        ("bytes=9-3", (0, 100, False)),  # no range, RFC 9110 section 14.1.1
        ("bytes=-", (0, 100, False)),
        ("bytes=0-1,5-6", (0, 100, False)),
        ("lines=1-2", (0, 100, False)),
        ("bytes=" + "9" * 40 + "-", (0, 100, False)),
    ],
)
def test_the_bytes_of_a_header(header, expected):
    assert byte_range(header, 100) == expected


def test_of_nothing_there_is_no_part():
    assert byte_range("bytes=0-", 0) is None
    assert byte_range("", 0) == (0, 0, False)
