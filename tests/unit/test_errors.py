"""Errors: stable codes, and never an inner text."""

import pytest

from sfu.errors import (
    BadRequest,
    Conflict,
    InvalidState,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    RateLimited,
    SfuError,
    TooLarge,
    Unavailable,
    to_client,
)

TREE = [
    (BadRequest, "bad_request", 400, False),
    (NotAuthenticated, "not_authenticated", 401, False),
    (NotAllowed, "not_allowed", 403, False),
    (NotFound, "not_found", 404, False),
    (InvalidState, "invalid_state", 409, False),
    (Conflict, "conflict", 409, True),
    (TooLarge, "too_large", 413, False),
    (RateLimited, "rate_limited", 429, True),
    (Unavailable, "unavailable", 503, True),
]


def test_the_tree_is_whole():
    ours = {kind for kind in SfuError.__subclasses__() if kind.__module__ == SfuError.__module__}
    assert {kind for kind, *_ in TREE} == ours


@pytest.mark.parametrize(("kind", "code", "status", "retryable"), TREE)
def test_an_error_says_the_same_to_a_socket_and_to_http(kind, code, status, retryable):
    error = kind("A sentence.")
    assert str(error) == "A sentence."
    assert to_client(error) == error.as_data()
    assert error.as_data() == {"code": code, "message": "A sentence.", "retryable": retryable}
    assert error.as_problem() == {
        "type": f"urn:sfu:error:{code}",
        "title": code.replace("_", " "),
        "status": status,
        "detail": "A sentence.",
        "code": code,
        "retryable": retryable,
    }


def test_a_code_may_be_narrower_for_one_error_only():
    assert NotFound("No call.", code="call_not_found").as_data()["code"] == "call_not_found"
    assert NotFound("No call.").code == "not_found"


@pytest.mark.parametrize("error", [ValueError("secret /etc/path"), KeyError("password"), RecursionError()])
def test_of_our_own_faults_nothing_is_told(error):
    told = to_client(error)
    assert (told["code"], told["retryable"]) == ("internal_error", True)
    assert "secret" not in told["message"]
    assert "password" not in told["message"]
