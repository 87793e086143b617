"""Which policy holds for a call: its conversation before the first rule that fits, before the settings.

Pure: settings and documents in, a policy out.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import Any

from sfu.settings import Recorder, RecordingPolicy, RecordingRule

Document = Mapping[str, Any]

# What a conversation may say for itself, and what a recording remembers of its policy.
FIELDS = frozenset(RecordingPolicy.model_fields)


def policy_for(settings: Recorder, call_type: str, conversation: Document | None) -> RecordingPolicy:
    """Return the policy of a call; `conversation` is that in which it takes place, if it is known.

    Raises:
        ValueError: what the conversation says does not go with the rest.

    """
    conversation_id = str(conversation["id"]) if conversation is not None else ""
    fitting = (rule for rule in settings.rules if _fits(rule, call_type, conversation_id))
    rule = next(fitting, None)
    own = (conversation or {}).get("recording") or {}
    changes = rule.changes if rule is not None else {}
    return settings.policy(changes | {name: value for name, value in own.items() if value is not None})


def _fits(rule: RecordingRule, call_type: str, conversation_id: str) -> bool:
    return rule.call_type in ("any", call_type) and any(
        fnmatchcase(conversation_id, pattern) for pattern in rule.conversations
    )


def of_recording(document: Document, default: RecordingPolicy | None = None) -> RecordingPolicy:
    """Return the policy under which a recording was made; the default: it was made before there were any."""
    told = document.get("policy")
    if told is None:
        return default or RecordingPolicy()
    return RecordingPolicy(**{name: value for name, value in told.items() if name in FIELDS})


def keep_until(policy: RecordingPolicy, began: datetime) -> datetime | None:
    """Return when a recording is erased that began then; None: never."""
    return began + timedelta(days=policy.keep_days) if policy.keep_days else None


def may_erase_from(policy: RecordingPolicy, began: datetime) -> datetime:
    """Return before when nobody erases a recording that began then."""
    return began + timedelta(days=policy.keep_at_least_days)
