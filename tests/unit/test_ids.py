"""Identifiers: a prefix, and enough chance that two are never the same."""

import re

import pytest

from sfu import ids


@pytest.mark.parametrize(
    ("make", "prefix"),
    [
        (ids.call_id, "call"),
        (ids.session_id, "ses"),
        (ids.peer_id, "par"),
        (ids.track_id, "trk"),
        (ids.event_id, "evt"),
    ],
)
def test_an_id_tells_what_it_names_and_can_stand_in_a_url(make, prefix):
    found = {make() for _ in range(200)}
    assert len(found) == 200
    assert all(re.fullmatch(rf"{prefix}_[A-Za-z0-9_-]{{16}}", value) for value in found)


def test_a_resume_token_has_192_random_bits():
    found = {ids.resume_token() for _ in range(200)}
    assert len(found) == 200
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{32}", value) for value in found)
