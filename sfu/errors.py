"""Errors that a client is told.

    SfuError
     ├── BadRequest       the message cannot be understood            400
     ├── NotAuthenticated no token, or one that does not hold         401
     ├── NotAllowed       the token does not give this right          403
     ├── NotFound         no such call, room or track                 404
     ├── InvalidState     not in this state of the call               409
     ├── Conflict         somebody else changed it first (retry)      409
     ├── TooLarge         over a limit of size                        413
     ├── RateLimited      too fast (retry later)                      429
     └── Unavailable      the server cannot now (retry later)         503

`code` is stable and meant for programs; the sentence is for people. Any other
exception is our fault: it is logged, and the client is told `internal_error`.
"""

from typing import Any


class SfuError(Exception):
    """A failure with a stable code, an HTTP status and a sentence."""

    code = "error"
    status = 500
    retryable = False

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code

    def as_data(self) -> dict[str, Any]:
        """Return the `data` of an `error` frame."""
        return {"code": self.code, "message": self.message, "retryable": self.retryable}

    def as_problem(self) -> dict[str, Any]:
        """Return the RFC 9457 problem document."""
        return {
            "type": f"urn:sfu:error:{self.code}",
            "title": self.code.replace("_", " "),
            "status": self.status,
            "detail": self.message,
            "code": self.code,
            "retryable": self.retryable,
        }


class BadRequest(SfuError):
    """The message cannot be understood."""

    code, status = "bad_request", 400


class NotAuthenticated(SfuError):
    """There is no token, or it does not hold."""

    code, status = "not_authenticated", 401


class NotAllowed(SfuError):
    """The token does not give this right."""

    code, status = "not_allowed", 403


class NotFound(SfuError):
    """There is no such call, room, participant or track."""

    code, status = "not_found", 404


class InvalidState(SfuError):
    """The call, or the participant, is not in a state in which this can be done."""

    code, status = "invalid_state", 409


class Conflict(SfuError):
    """Somebody else changed the same thing first."""

    code, status, retryable = "conflict", 409, True


class TooLarge(SfuError):
    """A message, a description or a room is over its limit."""

    code, status = "too_large", 413


class RateLimited(SfuError):
    """Too many messages in too short a time."""

    code, status, retryable = "rate_limited", 429, True


class Unavailable(SfuError):
    """The server cannot do this now."""

    code, status, retryable = "unavailable", 503, True


def to_client(error: Exception) -> dict[str, Any]:
    """Return what the client is told of any exception; never its inner text."""
    if isinstance(error, SfuError):
        return error.as_data()
    return {"code": "internal_error", "message": "The server failed; it was logged.", "retryable": True}
