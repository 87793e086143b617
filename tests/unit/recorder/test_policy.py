"""Which policy holds for a call."""

from datetime import UTC, datetime, timedelta

import pytest

from sfu.recorder.policy import FIELDS, keep_until, may_erase_from, of_recording, policy_for
from sfu.settings import Recorder, RecordingPolicy, RecordingRule

SETTINGS = Recorder(
    path="/x",
    rules=[
        RecordingRule(conversations=["support-*"], mode="always", required="before_answer"),
        RecordingRule(call_type="voice", mode="always", consent="none"),
    ],
)


@pytest.mark.parametrize(
    ("conversation", "call_type", "expected"),
    [
        ({"id": "support-7"}, "voice", ("always", "before_answer", "notify")),
        ({"id": "team"}, "voice", ("always", "no", "none")),
        ({"id": "team"}, "video", ("on_request", "no", "notify")),
        (None, "voice", ("always", "no", "none")),
        (None, "video", ("on_request", "no", "notify")),
        ({"id": "team", "recording": {"mode": "always"}}, "video", ("always", "no", "notify")),
        (
            {"id": "support-7", "recording": {"consent": "require_ack", "required": "no"}},
            "video",
            ("always", "no", "require_ack"),
        ),
        (
            {"id": "support-7", "recording": {"mode": "off", "required": "no"}},
            "video",
            ("off", "no", "notify"),
        ),
    ],
)
def test_the_conversation_goes_before_the_rules_and_those_before_the_rest(conversation, call_type, expected):
    policy = policy_for(SETTINGS, call_type, conversation)
    assert (policy.mode, policy.required, policy.consent) == expected


def test_what_does_not_go_together_is_refused():
    """A recorder that is required, in calls that are not recorded."""
    with pytest.raises(ValueError, match="required wants"):
        policy_for(SETTINGS, "video", {"id": "support-7", "recording": {"mode": "off"}})
    with pytest.raises(ValueError, match="keep_days is less"):
        RecordingPolicy(keep_days=3, keep_at_least_days=4)


def test_a_recording_remembers_its_policy():
    policy = RecordingPolicy(mode="always", required="during", keep_days=2, keep_at_least_days=1)
    document = {"policy": {name: getattr(policy, name) for name in FIELDS}}
    assert of_recording(document) == policy
    assert of_recording({}, policy) == policy, "those of before there were policies are as the server is set"


def test_how_long_it_is_kept():
    began = datetime(2026, 1, 1, tzinfo=UTC)
    policy = RecordingPolicy(keep_days=2, keep_at_least_days=1)
    assert keep_until(policy, began) == began + timedelta(days=2)
    assert may_erase_from(policy, began) == began + timedelta(days=1)
    assert keep_until(RecordingPolicy(), began) is None
