"""Descriptions: nothing is lost, and what is asked of one is found in it."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from sfu.media import sdp

DATA = Path(__file__).parents[2] / "data"
RECORDED = sorted(path.stem for path in DATA.glob("*.sdp"))

# Any text of one line: no control and no separator at which splitlines would split.
VALUE = st.text(st.characters(exclude_categories=("C", "Z"), include_characters=" "), max_size=30)
NAME = st.from_regex(r"[a-z][a-z-]{0,10}", fullmatch=True)
LINES = st.lists(st.tuples(st.sampled_from("abcikrst"), VALUE), max_size=8)
MEDIA = st.builds(
    sdp.Media,
    LINES,
    st.sampled_from(("audio", "video", "application", "text")),
    st.integers(0, 65535),
    st.sampled_from(("UDP/TLS/RTP/SAVPF", "UDP/DTLS/SCTP")),
    st.lists(st.from_regex(r"[0-9]{1,3}", fullmatch=True), min_size=1, max_size=5),
)
DESCRIPTION = st.builds(
    sdp.Description,
    LINES.map(lambda lines: sdp.Lines([("v", "0"), *lines])),
    st.lists(MEDIA, max_size=4),
)


def read(name: str) -> str:
    return (DATA / f"{name}.sdp").read_bytes().decode().replace("\r\n", "\n").replace("\n", "\r\n")


def media(*lines: str, formats: str = "96 97") -> sdp.Media:
    text = "\n".join(("v=0", f"m=video 9 UDP/TLS/RTP/SAVPF {formats}", *lines))
    return sdp.parse(text).media[0]


@pytest.mark.parametrize("name", RECORDED)
def test_nothing_of_a_recorded_offer_is_lost(name):
    """A browser's offer comes out as it went in."""
    assert str(sdp.parse(read(name))) == read(name)


def test_every_kind_of_offer_was_recorded():
    """The golden files are there: a glob over nothing would prove nothing."""
    assert len(RECORDED) == 8


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r\n\r\n"])
def test_line_endings_do_not_matter(ending):
    """Unix, network and doubled line endings are read alike."""
    text = read("chromium_156_audio_video").replace("\r\n", ending)
    assert str(sdp.parse(text)) == read("chromium_156_audio_video")


@given(DESCRIPTION)
def test_what_is_written_is_read_again(description):
    """Every line of every level comes back."""
    assert sdp.parse(str(description)) == description


@given(st.text(max_size=300))
def test_any_text_is_a_description_or_a_value_error(text):
    """Nothing but ValueError comes of arbitrary text."""
    for candidate in (text, "v=0\r\n" + text, "v=0\r\nm=video 9 X 96\r\na=" + text):
        with suppress(ValueError):
            sdp.parse(candidate)


ATTRIBUTES = ("rtpmap", "fmtp", "rtcp-fb", "extmap", "ssrc", "ssrc-group", "rid", "simulcast", "mid", "group")
WORDS = st.lists(
    st.one_of(
        st.text(max_size=8),
        st.sampled_from(
            (
                "96",
                "*",
                "send",
                "recv",
                "FID",
                "VP8/90000",
                "rtx/90000",
                "apt=96",
                "/",
                ":",
                ";",
                "٣",
                "²",
                "",
            )
        ),
        st.integers(0, 1 << 70).map(str),
    ),
    max_size=6,
).map(" ".join)


@given(st.lists(st.tuples(st.sampled_from(ATTRIBUTES), WORDS), max_size=8), st.lists(st.text(max_size=5)))
def test_any_attribute_is_read_or_left_out(attributes, formats):
    """What is asked of an m-line never raises, whatever stands in it."""
    line = sdp.Media([("a", f"{name}:{value}") for name, value in attributes], "video", 9, "x", formats)
    found = sdp.codecs(line)
    assert all(0 <= codec.payload_type <= 127 and codec.clock_rate > 0 for codec in found)
    assert all(0 < number <= 255 for number in sdp.extensions(line))
    assert all(0 <= ssrc <= 0xFFFFFFFF for ssrc in sdp.ssrcs(line))
    assert all(0 <= ssrc <= 0xFFFFFFFF for pair in sdp.flow_groups(line) for ssrc in pair)
    sdp.send_rids(line)
    assert isinstance(sdp.Description(sdp.Lines(line.lines), [line]).bundled, list)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("\n\n", "empty"),
        ("o=- 1", "line 1 is not v=0"),
        ("v=1", "line 1 is not v=0"),
        ("v=0\nrubbish", "line 2 is not type=value"),
        ("v=0\nx", "line 2 is not type=value"),
        ("v=0\n1=x", "line 2 is not type=value"),
        ("v=0\nm=audio 9 X", "line 2 is not an m-line"),
        ("v=0\nm=audio x X 0", "line 2 is not an m-line"),
        ("v=0\nm=audio 65536 X 0", "line 2 is not an m-line"),
        ("v=0\n" + "m=audio 9 X 0\n" * (sdp.MAX_MEDIA_SECTIONS + 1), "more than 128 m-lines"),
        ("v=0\na=" + "x" * sdp.MAX_SDP_BYTES, "longer than"),
    ],
)
def test_what_is_no_description_is_refused(text, message):
    """The message says what is wrong and in which line."""
    with pytest.raises(ValueError, match=message):
        sdp.parse(text)


def test_a_description_begins_with_its_version_also_behind_an_empty_line():
    """An empty line does not let a description begin with something else."""
    with pytest.raises(ValueError, match="v=0"):
        sdp.parse("\na=mid:0\n")


def test_as_many_m_lines_as_allowed_are_read():
    """The bound is inclusive."""
    text = "v=0\n" + "m=audio 9 X 0\n" * sdp.MAX_MEDIA_SECTIONS
    assert len(sdp.parse(text).media) == sdp.MAX_MEDIA_SECTIONS


def test_attributes_are_found_by_their_whole_name():
    """A name is not taken for the beginning of another."""
    line = media("a=rtcp-mux", "a=rtcp:9", "a=mid:0", "a=mid:1", "b=mid:2")
    assert line.has("rtcp-mux")
    assert line.value("rtcp-mux") == ""
    assert list(line.values("mid")) == ["0", "1"]
    assert (line.mid, media("a=rtcp-mux").mid) == ("0", "")
    assert line.value("rtcp-m") is None
    assert not line.has("rtc")


def test_attributes_are_added_with_and_without_value():
    """What is added stands at the end."""
    line = sdp.Lines()
    line.add("ice-lite")
    line.add("mid", "0")
    assert str(line) == "a=ice-lite\r\na=mid:0\r\n"


@pytest.mark.parametrize("direction", ["sendrecv", "sendonly", "recvonly", "inactive"])
def test_the_direction_is_read(direction):
    """An m-line says its direction, and sendrecv if it says none."""
    assert media("a=mid:0", f"a={direction}").direction == direction
    assert media("a=mid:0").direction == "sendrecv"
    assert media("i=sendonly").direction == "sendrecv"


def test_a_session_attribute_stands_for_all_m_lines():
    """The m-line's own wins."""
    description = sdp.parse("v=0\na=setup:active\nm=audio 9 X 0\nm=audio 9 X 0\na=setup:passive")
    assert [description.attribute(line, "setup") for line in description.media] == ["active", "passive"]
    assert description.attribute(description.media[0], "ice-pwd") is None


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("", []),
        ("a=group:LS 0 1\na=group:BUNDLE 1 2\na=group:BUNDLE 3", ["1", "2"]),
        ("a=group:\na=group:BUNDLE", []),
    ],
)
def test_the_first_bundle_group_counts(lines, expected):
    """Other groups are no bundle."""
    assert sdp.parse("v=0\n" + lines).bundled == expected


def test_ports_may_come_with_a_count():
    """`9/2` is port 9 (RFC 8866 section 5.14)."""
    assert sdp.parse("v=0\nm=audio 9/2 RTP/AVP 0").media[0].port == 9


def test_codecs_are_read_in_the_order_of_the_formats():
    """Preference is the order of the m-line, not of the rtpmap lines."""
    line = media(
        "a=rtpmap:97 rtx/90000",
        "a=fmtp:97 apt=96",
        "a=rtpmap:96 VP8/90000",
        "a=rtpmap:111 opus/48000/2",
        "a=rtcp-fb:96 nack",
        "a=rtcp-fb:* transport-cc",
        "a=rtcp-fb:96 nack pli",
        "a=fmtp:111 minptime=10",
        "a=fmtp:111 useinbandfec=1",
        formats="111 97 96",
    )
    opus, rtx, vp8 = sdp.codecs(line)
    assert (opus.payload_type, opus.name, opus.channels, opus.clock_rate) == (111, "opus", 2, 48_000)
    assert opus.fmtp == "minptime=10;useinbandfec=1"
    assert opus.parameters == {"minptime": "10", "useinbandfec": "1"}
    assert (rtx.name, rtx.repairs, rtx.channels) == ("rtx", 96, 1)
    assert (vp8.name, vp8.encoding, vp8.repairs) == ("vp8", "VP8", None)
    assert vp8.feedback == ("nack", "nack pli", "transport-cc")


def test_static_payload_types_need_no_rtpmap():
    """0, 8, 9 and 13 mean what RFC 3551 says, unless an rtpmap says otherwise."""
    found = sdp.codecs(media("a=rtpmap:8 VP8/90000", formats="0 8 9 13 18"))
    assert [(c.payload_type, c.name) for c in found] == [(0, "pcmu"), (8, "vp8"), (9, "g722"), (13, "cn")]


@pytest.mark.parametrize(
    "lines",
    [
        ["a=rtpmap:96"],
        ["a=rtpmap:96 VP8"],
        ["a=rtpmap:96 VP8/0"],
        ["a=rtpmap:96 VP8/fast"],
        ["a=rtpmap:96 VP8/10000000"],
        ["a=rtpmap:x VP8/90000"],
        ["a=rtpmap:128 VP8/90000"],
        [],
    ],
)
def test_unreadable_codecs_are_left_out(lines):
    """One broken line takes one codec away, not the m-line."""
    found = sdp.codecs(media(*lines, "a=rtpmap:97 H264/90000", "a=fmtp:x a=b", formats="96 x 128 97"))
    assert [codec.name for codec in found] == ["h264"]


def test_wildcard_feedback_passes_over_formats_that_are_no_numbers():
    """`*` means every payload type there is."""
    line = media("a=rtpmap:96 VP8/90000", "a=rtcp-fb:* nack", formats="x 96")
    assert sdp.codecs(line)[0].feedback == ("nack",)


def test_codecs_are_bounded():
    """No more formats are read than a description can sanely have."""
    line = media("a=rtpmap:96 VP8/90000", formats=" ".join(["96"] * (sdp.MAX_CODECS + 1)))
    assert len(sdp.codecs(line)) == sdp.MAX_CODECS


def test_extensions_are_read_by_id():
    """A direction beside the id is passed over; id 0 and what has no URI are none."""
    line = media(
        "a=extmap:1/recvonly uri:a", "a=extmap:0 uri:b", "a=extmap:2", "a=extmap:256 x", "a=extmap:9 y z"
    )
    assert sdp.extensions(line) == {1: "uri:a", 9: "y"}


def test_extensions_are_bounded():
    """No more are read than a description can sanely have."""
    assert len(sdp.extensions(media(*(f"a=extmap:{n} uri:{n}" for n in range(1, 100))))) == sdp.MAX_EXTENSIONS


def test_ssrcs_are_named_once_each():
    """In the order of their first line."""
    line = media(
        "a=ssrc:7 cname:x", "a=ssrc:3 cname:x", "a=ssrc:7 msid:a b", "a=ssrc:x y", "a=ssrc:4294967296 z"
    )
    assert sdp.ssrcs(line) == [7, 3]


def test_flow_groups_are_pairs():
    """FID groups of two readable SSRCs count."""
    line = media(
        "a=ssrc-group:FID 1 2",
        "a=ssrc-group:FID 0 3",
        "a=ssrc-group:SIM 4 5",
        "a=ssrc-group:FID 6",
        "a=ssrc-group:FID 7 x",
        "a=ssrc-group:",
    )
    assert sdp.flow_groups(line) == [(1, 2), (0, 3)]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["a=rid:q send", "a=rid:h send", "a=rid:f send", "a=simulcast:send q;h;f"], ["q", "h", "f"]),
        (["a=rid:q send pt=96", "a=rid:h send", "a=simulcast:recv x;y send h;q"], ["h", "q"]),
        (["a=rid:q send", "a=rid:h send", "a=simulcast:send ~q,h;h"], ["q", "h"]),
        (["a=rid:q send", "a=rid:h recv", "a=rid:z", "a=simulcast:send q;h;z"], ["q"]),
        (["a=rid:q send"], []),
        (["a=rid:q send", "a=simulcast:send"], []),
        (["a=rid:q recv", "a=simulcast:recv q"], []),
    ],
)
def test_rids_are_those_that_the_offerer_sends(lines, expected):
    """In the order of a=simulcast, alternatives narrowed to the first, paused ones included."""
    assert sdp.send_rids(media(*lines)) == expected
