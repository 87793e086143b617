"""Calls as the calls server told of them."""

from datetime import datetime
from typing import Any

from django.db import models

# How far a call has come; it never goes back.
_PROGRESS = {"ringing": 0, "active": 1, "ended": 2}

# How a call that nobody took reads to whoever placed it, and to whoever was called.
_PLACED = {"missed": "No answer", "rejected": "Declined", "cancelled": "Cancelled", "busy": "Busy"}
_RECEIVED = {"missed": "Missed", "rejected": "Declined", "cancelled": "Missed", "busy": "Missed"}


class CallRecord(models.Model):
    """One call."""

    class State(models.TextChoices):
        """How far it has come."""

        RINGING = "ringing"
        ACTIVE = "active"
        ENDED = "ended"

    call_id = models.CharField(max_length=64, primary_key=True)
    call_type = models.CharField(max_length=16)
    state = models.CharField(max_length=16, choices=State.choices)
    initiator = models.CharField(max_length=128)
    started_at = models.DateTimeField(db_index=True)
    answered_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    end_reason = models.CharField(max_length=32, blank=True)
    # Of the newest event that was kept: when it was made, and its number.
    told_at = models.DateTimeField()
    told_seq = models.PositiveBigIntegerField()

    class Meta:
        """The newest first."""

        ordering = ("-started_at", "-call_id")

    def __str__(self) -> str:
        return f"{self.call_id} ({self.state})"

    @property
    def age(self) -> tuple[int, datetime, int]:
        """How new this is: of two accounts of one call the greater one is later."""
        return _PROGRESS[self.state], self.told_at, self.told_seq

    @property
    def talk_s(self) -> int:
        """How many seconds they talked."""
        if self.answered_at is None or self.ended_at is None:
            return 0
        return int((self.ended_at - self.answered_at).total_seconds())

    def outcome_for(self, user_id: str) -> str:
        """Return in words how the call went, as that user sees it."""
        if self.state != self.State.ENDED:
            return "Ringing" if self.state == self.State.RINGING else "Going on"
        if self.answered_at is not None:
            minutes, seconds = divmod(self.talk_s, 60)
            return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
        words = _PLACED if user_id == self.initiator else _RECEIVED
        return words.get(self.end_reason, "Ended")

    def as_json(self) -> dict[str, Any]:
        """Return the call as JSON values."""
        return {
            "call_id": self.call_id,
            "call_type": self.call_type,
            "state": self.state,
            "initiator": self.initiator,
            "started_at": self.started_at,
            "answered_at": self.answered_at,
            "ended_at": self.ended_at,
            "end_reason": self.end_reason,
            "participants": [
                {"user_id": p.user_id, "name": p.name, "state": p.state} for p in self.participants.all()
            ],
        }


class CallParticipant(models.Model):
    """One user in a call, and how far he came."""

    call = models.ForeignKey(CallRecord, models.CASCADE, related_name="participants")
    # The calls server knows users as text; whoever is deleted here stays in the history of others.
    user_id = models.CharField(max_length=128, db_index=True)
    name = models.CharField(max_length=128)
    state = models.CharField(max_length=16)

    class Meta:
        """Each user once in a call."""

        ordering = ("pk",)
        constraints = (models.UniqueConstraint(fields=("call", "user_id"), name="user_once_in_call"),)

    def __str__(self) -> str:
        return f"{self.name}: {self.state}"
