"""What clients say: understood, or refused with the place of the fault and never with its text."""

import json

import pytest
from hypothesis import given, settings, strategies as st
from pydantic import BaseModel

from sfu.errors import BadRequest
from sfu.signaling import messages
from sfu.signaling.messages import REQUESTS, Frame, parse_data, parse_frame


def parsed(type_, **data):
    return parse_data(parse_frame(json.dumps({"type": type_, "id": "c1", "data": data})))


# The envelope


def test_an_envelope_has_a_type_an_id_and_data():
    assert parse_frame('{"type": "ping", "id": "c1", "data": {"x": 1}}') == Frame(
        type="ping", id="c1", data={"x": 1}
    )
    assert parse_frame('{"type": "ping"}') == Frame(type="ping", id=None, data={})
    assert parse_frame('{"type": "ping", "id": 7}').id == 7


def test_unknown_fields_are_passed_over():
    assert parse_frame('{"type": "ping", "colour": "red"}') == Frame(type="ping")
    assert parsed("call.answer", call_id="c", colour="red").call_id == "c"


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "{",
        "{'type': 'ping'}",
        "ping",
        '{"type": "ping"} {"type": "ping"}',
        '{"type": "ping",}',
        "[" * 10_000,
        '{"a":' * 10_000,
        '{"type": "ping", "data": {"x": ' + "9" * 5000 + "}}",
        "null",
        "7",
        "true",
        '"ping"',
        "[]",
        '[{"type": "ping"}]',
        "{}",
        '{"id": "c1"}',
        '{"type": null}',
        '{"type": 7}',
        '{"type": ""}',
        '{"type": ["ping"]}',
        '{"type": "' + "x" * 65 + '"}',
        '{"type": "\\ud800"}',
        '{"type": "ping", "id": {}}',
        '{"type": "ping", "id": 1.5}',
        '{"type": "ping", "id": "' + "i" * 65 + '"}',
        '{"type": "ping", "id": ' + "1" * 65 + "}",
        '{"type": "ping", "data": []}',
        '{"type": "ping", "data": "x"}',
        '{"type": "ping", "data": null}',
    ],
)
def test_what_is_no_envelope_is_a_bad_frame(text):
    with pytest.raises(BadRequest) as refused:
        parse_frame(text)
    assert refused.value.code == "bad_frame"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize(
    "frame",
    [
        '{"type": "call.initiate", "data": {"callee_ids": ["b"], "metadata": {"x": %s}}}',
        '{"type": "data.send", "data": {"payload": [%s]}}',
    ],
)
def test_what_is_no_json_number_is_refused_for_no_browser_could_read_it_again(frame, number):
    """RFC 8259, section 6: such values would go out to the others as they came in."""
    with pytest.raises(BadRequest):
        parse_data(parse_frame(frame % number))


# Requests


def test_every_request_of_the_protocol_is_known():
    of_the_protocol = {
        "ping ack",
        "call.initiate call.answer call.reject call.cancel call.end call.leave",
        "call.invite call.update call.state",
        "presence.watch",
        "media.offer media.prefer media.mute media.leave media.candidate",
        "data.send",
    }
    assert {word for line in of_the_protocol for word in line.split()} <= REQUESTS.keys()


@pytest.mark.parametrize("type_", ["call.dance", "connected", "reply", "PING", "ping ", "__class__"])
def test_an_unknown_type_is_said_to_be_unknown(type_):
    with pytest.raises(BadRequest) as refused:
        parsed(type_)
    assert refused.value.code == "unknown_type"


GOOD = [
    ("ping", {}),
    ("pong", {}),
    ("ack", {"seq": 0}),
    ("call.initiate", {}),
    (
        "call.initiate",
        {"callee_ids": ["b"], "call_type": "voice", "ring_timeout_s": 1, "idempotency_key": "k"},
    ),
    ("call.initiate", {"conversation_id": "c", "ring_timeout_s": None, "metadata": {"k": [1, {"x": None}]}}),
    ("call.answer", {"call_id": "c"}),
    ("call.reject", {"call_id": "c"}),
    ("call.reject", {"call_id": "c", "reason": "r" * 200}),
    ("call.invite", {"call_id": "c", "user_ids": ["x"]}),
    ("call.update", {"call_id": "c", "call_type": "video"}),
    ("presence.watch", {"user_ids": []}),
    ("media.offer", {"call_id": "c", "sdp": "v=0"}),
    (
        "media.offer",
        {"room": "r", "sdp": "v=0", "tracks": [{"mid": "0", "source": "screen_audio", "name": "n"}]},
    ),
    ("media.prefer", {"mid": "0", "max_width": 0, "priority": -100, "pin": True}),
    ("media.prefer", {"track_id": "t", "max_height": 16384, "max_fps": 240}),
    ("media.mute", {"track_id": "t", "muted": True}),
    ("media.leave", {}),
    ("media.candidate", {"candidate": {"anything": 1}}),
    ("data.send", {"payload": {"x": 1}}),
    ("data.send", {"payload": None, "to": ["p"], "topic": "chat", "reliable": False}),
]


@pytest.mark.parametrize(("type_", "data"), GOOD)
def test_a_request_is_read_into_its_model(type_, data):
    request = parsed(type_, **data)
    assert type(request) is REQUESTS[type_]
    read = request.model_dump()
    for key, value in data.items():
        if not isinstance(value, list) or not value or not isinstance(value[0], dict):
            assert read[key] == value


BAD = [
    ("ack", {}, "seq"),
    ("ack", {"seq": -1}, "seq"),
    ("ack", {"seq": "x"}, "seq"),
    ("call.initiate", {"callee_ids": "bob"}, "callee_ids"),
    ("call.initiate", {"callee_ids": [""]}, "callee_ids.0"),
    ("call.initiate", {"callee_ids": [7]}, "callee_ids.0"),
    ("call.initiate", {"callee_ids": ["b" * 129]}, "callee_ids.0"),
    ("call.initiate", {"callee_ids": ["b"] * 1001}, "callee_ids"),
    ("call.initiate", {"call_type": "smoke"}, "call_type"),
    ("call.initiate", {"ring_timeout_s": 0}, "ring_timeout_s"),
    ("call.initiate", {"ring_timeout_s": 601}, "ring_timeout_s"),
    ("call.initiate", {"ring_timeout_s": float("nan")}, ""),
    ("call.initiate", {"metadata": []}, "metadata"),
    ("call.initiate", {"metadata": {"x": "y" * 4096}}, "metadata"),
    ("call.initiate", {"idempotency_key": ""}, "idempotency_key"),
    ("call.answer", {}, "call_id"),
    ("call.answer", {"call_id": None}, "call_id"),
    ("call.answer", {"call_id": "\ud800"}, "call_id"),
    ("call.reject", {"call_id": "c", "reason": "r" * 201}, "reason"),
    ("call.invite", {"call_id": "c", "user_ids": []}, "user_ids"),
    ("call.update", {"call_id": "c"}, "call_type"),
    ("presence.watch", {}, "user_ids"),
    ("media.offer", {"sdp": ""}, "sdp"),
    ("media.offer", {}, "sdp"),
    ("media.offer", {"sdp": "v=0", "tracks": [{"mid": "0", "source": "nose"}]}, "tracks.0.source"),
    ("media.offer", {"sdp": "v=0", "tracks": [{"mid": "m" * 17, "source": "camera"}]}, "tracks.0.mid"),
    ("media.prefer", {"max_width": -1}, "max_width"),
    ("media.prefer", {"priority": 101}, "priority"),
    ("media.mute", {"track_id": "t"}, "muted"),
    ("data.send", {}, "payload"),
    ("data.send", {"payload": 1, "to": "p"}, "to"),
    ("data.send", {"payload": 1, "topic": "t" * 129}, "topic"),
]


@pytest.mark.parametrize(("type_", "data", "place"), BAD)
def test_a_wrong_field_is_named_and_not_repeated(type_, data, place):
    with pytest.raises(BadRequest) as refused:
        parsed(type_, **data)
    assert place in refused.value.message
    assert len(refused.value.message) < 1000


def test_at_most_five_faults_are_named():
    with pytest.raises(BadRequest) as refused:
        parsed("call.initiate", callee_ids=[""] * 50)
    assert refused.value.message.count("callee_ids") == 5


def test_what_a_client_sent_is_not_sent_back():
    with pytest.raises(BadRequest) as refused:
        parsed("call.answer", call_id=["hunter2"])
    assert "hunter2" not in refused.value.message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
fields = st.sampled_from(
    sorted({name for model in REQUESTS.values() for name in model.model_fields} | {"type", "id", "data"})
)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(type_=st.sampled_from(sorted(REQUESTS)), data=st.dictionaries(fields, json_values, max_size=5))
def test_whatever_stands_in_the_fields_is_a_request_or_a_bad_request(type_, data):
    try:
        request = parsed(type_, **data)
    except BadRequest:
        return
    assert isinstance(request, BaseModel)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.text(max_size=100) | json_values.map(json.dumps))
def test_whatever_a_frame_is_it_is_an_envelope_or_a_bad_frame(text):
    try:
        assert isinstance(parse_frame(text), Frame)
    except BadRequest as error:
        assert error.code == "bad_frame"


@pytest.mark.parametrize("wrap", [("[", "]"), ('{"a":', "}")])
def test_at_no_depth_of_nesting_anything_else_happens(wrap):
    """Around the depth at which Python gives up, reading may succeed where writing does not."""
    for depth in [*range(20, 40), *range(850, 1010)]:
        metadata = f'{{"x": {wrap[0] * depth}1{wrap[1] * depth}}}'
        text = f'{{"type": "call.initiate", "data": {{"callee_ids": ["b"], "metadata": {metadata}}}}}'
        try:
            parse_data(parse_frame(text))
        except BadRequest:
            continue


@pytest.mark.parametrize(("depth", "taken"), [(10, True), (20, True), (40, False), (400, False)])
def test_some_nesting_is_taken_and_much_is_not(depth, taken):
    brackets = "[" * depth + "]" * depth
    text = f'{{"type": "ping", "data": {{"x": {brackets}}}}}'
    if taken:
        assert parse_frame(text).type == "ping"
    else:
        with pytest.raises(BadRequest) as refused:
            parse_frame(text)
        assert refused.value.code == "bad_frame"


# What the server says


def test_what_the_server_says_has_three_forms():
    assert messages.reply("c1", {"x": 1}) == {"type": "reply", "re": "c1", "data": {"x": 1}}
    assert messages.error(None, {"code": "c"}) == {"type": "error", "re": None, "data": {"code": "c"}}
    assert messages.event("pong", {}) == {"type": "pong", "data": {}}
    assert messages.event("call.incoming", {}, 7) == {"type": "call.incoming", "seq": 7, "data": {}}
