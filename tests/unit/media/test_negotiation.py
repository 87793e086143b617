"""Offers of real browsers in, answers out: nothing the room allows is lost on the way."""

from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from sfu.media import sdp
from sfu.media.negotiation import (
    AUDIO_LEVEL_URI,
    MAX_DATA_MESSAGE_BYTES,
    MID_URI,
    RID_URI,
    LocalTransport,
    Policy,
    RemoteTransport,
    Section,
    Sending,
    agree,
    answer,
    candidate_lines,
    remote_transport,
)

DATA = Path(__file__).parents[2] / "data"
RECORDED = sorted(path.stem for path in DATA.glob("*.sdp"))

ROOM = Policy(frozenset({"opus", "red", "vp8", "h264", "vp9", "av1"}))
LOCAL = LocalTransport(
    "ufrag",
    "password-of-twenty-four-x",
    ":".join(["AB"] * 32),
    [("192.0.2.1", 7882, "udp"), ("192.0.2.1", 7881, "tcp")],
    session_id=7,
    version=3,
)


def offer_of(name: str) -> sdp.Description:
    return sdp.parse((DATA / f"{name}.sdp").read_bytes().decode())


def sendings_for(offer: sdp.Description) -> dict[str, Sending]:
    return {m.mid: Sending(1000 + 2 * i, 1001 + 2 * i, f"s{i}") for i, m in enumerate(offer.media)}


def answered(offer: sdp.Description, policy: Policy = ROOM, role: str = "server") -> sdp.Description:
    """The answer, as the client reads it."""
    sections = agree(offer, policy, sendings_for(offer))
    return sdp.parse(str(answer(offer, sections, LOCAL, role)))


AUDIO_LINES = (
    "a=mid:0",
    "a=rtcp-mux",
    "a=ice-ufrag:u",
    "a=ice-pwd:p",
    "a=fingerprint:sha-256 AA",
    "a=rtpmap:111 opus/48000/2",
)


def description(*media_lines: str, session: tuple[str, ...] = (), m: str = "") -> sdp.Description:
    head = m or "m=audio 9 UDP/TLS/RTP/SAVPF 111"
    return sdp.parse("\n".join(("v=0", *session, head, *media_lines)))


def without(*prefixes: str) -> list[str]:
    return [line for line in AUDIO_LINES if not line.startswith(prefixes)]


# Golden offers


@pytest.mark.parametrize("name", RECORDED)
def test_every_codec_the_room_allows_is_answered_as_it_was_offered(name):
    """Same payload type (those below 96 too), same fmtp, same feedback, same order."""
    offer = offer_of(name)
    seen_low = False
    for offered, given_back in zip(offer.media, answered(offer).media, strict=True):
        if offered.port == 0 or offered.kind == "application":
            continue
        all_offered = sdp.codecs(offered)
        allowed = {c.payload_type for c in all_offered if c.name in ROOM.codecs and c.name != "red"}
        expected = [
            c
            for c in all_offered
            if c.payload_type in allowed
            or (c.name == "rtx" and c.repairs in allowed)
            or (c.name == "red" and c.clock_rate == 48_000)
        ]
        found = sdp.codecs(given_back)
        assert [(c.payload_type, c.encoding, c.clock_rate, c.channels, c.fmtp) for c in found] == [
            (c.payload_type, c.encoding, c.clock_rate, c.channels, c.fmtp) for c in expected
        ]
        assert [c.feedback for c in found] == [c.feedback for c in expected]
        seen_low |= any(c.payload_type < 96 for c in found)
    assert seen_low or name.startswith("aiortc")


@pytest.mark.parametrize("name", RECORDED)
def test_m_lines_keep_their_place_and_kind(name):
    """An answer has the m-lines of its offer, each with its mid and protocol."""
    offer = offer_of(name)
    given_back = answered(offer)
    assert [(m.mid, m.kind, m.protocol) for m in given_back.media] == [
        (m.mid, m.kind, m.protocol) for m in offer.media
    ]


@pytest.mark.parametrize("name", RECORDED)
def test_directions_are_answered_by_their_opposite(name):
    """Who sends is received from, who receives is sent to."""
    offer = offer_of(name)
    opposite = {
        "sendonly": "recvonly",
        "recvonly": "sendonly",
        "sendrecv": "sendrecv",
        "inactive": "inactive",
    }
    for offered, given_back in zip(offer.media, answered(offer).media, strict=True):
        if offered.kind != "application":
            assert given_back.direction == opposite[offered.direction]


@pytest.mark.parametrize("name", RECORDED)
def test_the_bundle_holds_exactly_the_accepted_mids(name):
    """A rejected m-line has port 0 and stands outside the group."""
    given_back = answered(offer_of(name))
    assert given_back.bundled == [m.mid for m in given_back.media if m.port]
    assert all(m.port in (0, 9) for m in given_back.media)


@pytest.mark.parametrize("name", RECORDED)
def test_every_accepted_m_line_says_the_one_transport(name):
    """The same credentials and candidates on each (aiortc takes the last), none on a rejected one."""
    for media in answered(offer_of(name)).media:
        if not media.port:
            assert not media.has("candidate")
            assert not media.has("ice-ufrag")
            continue
        assert list(media.values("candidate")) == list(candidate_lines(LOCAL.candidates))
        assert media.has("end-of-candidates")
        assert media.value("ice-ufrag") == LOCAL.ufrag
        assert media.value("ice-pwd") == LOCAL.password
        assert media.value("fingerprint") == f"sha-256 {LOCAL.fingerprint}"
        assert media.value("setup") == "passive"


@pytest.mark.parametrize("name", RECORDED)
def test_only_offered_extensions_are_answered(name):
    """Each under the id of the offer, and mid always where it was offered."""
    offer = offer_of(name)
    for offered, given_back in zip(offer.media, answered(offer).media, strict=True):
        theirs = sdp.extensions(offered)
        if given_back.port and theirs:
            assert sdp.extensions(given_back).items() <= theirs.items()
            assert MID_URI in sdp.extensions(given_back).values()


@pytest.mark.parametrize("name", RECORDED)
def test_the_session_part_says_who_we_are(name):
    """ICE-lite, one version number, mixed extensions where they were offered."""
    offer = offer_of(name)
    given_back = answered(offer)
    assert given_back.session.has("ice-lite")
    assert ("o", "- 7 3 IN IP4 0.0.0.0") in given_back.session.lines
    assert given_back.session.has("extmap-allow-mixed") == offer.session.has("extmap-allow-mixed")


@pytest.mark.parametrize("name", RECORDED)
def test_a_voice_room_answers_video_inactive(name):
    """Without video every accepted video m-line stands still; audio goes on."""
    offer = offer_of(name)
    given_back = answered(offer, Policy(ROOM.codecs, video=False))
    for offered, line in zip(offer.media, given_back.media, strict=True):
        if line.kind == "video":
            assert line.direction == "inactive"
            assert not line.has("ssrc")
            assert not line.has("simulcast")
            assert bool(line.port) == bool(offered.port)
        elif line.kind == "audio":
            assert line.direction != "inactive"


def test_simulcast_is_answered_with_the_rids_that_we_receive():
    """q;h;f send becomes q;h;f recv."""
    offer = offer_of("chromium_156_simulcast_data")
    section = agree(offer, ROOM, {})[1]
    line = answered(offer).media[1]
    assert section.rids == ("q", "h", "f")
    assert section.extension_id(RID_URI) is not None
    assert list(line.values("rid")) == ["q recv", "h recv", "f recv"]
    assert line.value("simulcast") == "recv q;h;f"


@pytest.mark.parametrize("name", ["chromium_156_simulcast_data", "aiortc_1_16_audio_video_data"])
def test_data_channels_are_answered(name):
    """With our port and our bound on a message; the client's are kept."""
    offer = offer_of(name)
    section = agree(offer, ROOM, {})[2]
    assert (section.sctp_port, section.max_message_bytes) == (5000, 262_144)
    line = answered(offer).media[2]
    assert (line.port, line.formats) == (9, ["webrtc-datachannel"])
    assert line.value("sctp-port") == "5000"
    assert line.value("max-message-size") == str(MAX_DATA_MESSAGE_BYTES)


def test_a_room_without_data_rejects_the_data_channel():
    """And nothing else."""
    given_back = answered(offer_of("chromium_156_simulcast_data"), Policy(ROOM.codecs, data=False))
    assert [m.port for m in given_back.media] == [9, 9, 0]
    assert given_back.bundled == ["0", "1"]


def test_slots_say_our_ssrcs():
    """Each slot has its own SSRC, video a repair stream beside it."""
    offer = offer_of("chromium_156_slots")
    given_back = answered(offer)
    assert len(given_back.media) == 18
    for index, line in enumerate(given_back.media):
        ssrc = 1000 + 2 * index
        assert line.value("msid") == f"s{index} {line.mid}"
        if line.kind == "video":
            assert sdp.ssrcs(line) == [ssrc, ssrc + 1]
            assert sdp.flow_groups(line) == [(ssrc, ssrc + 1)]
        else:
            assert sdp.ssrcs(line) == [ssrc]
            assert sdp.flow_groups(line) == []


def test_a_renegotiation_adds_a_screen():
    """The m-lines before keep their place, the new one is received."""
    before, after = offer_of("chromium_156_audio_video"), offer_of("chromium_156_add_screen")
    sections = agree(after, ROOM, {}, previous=len(before.media))
    assert [(s.mid, s.kind, s.receives) for s in sections] == [
        ("0", "audio", True),
        ("1", "video", True),
        ("2", "video", True),
    ]
    assert len(sections[2].flows) == 1


def test_an_ice_restart_shows_in_the_ufrag():
    """Only the credentials change."""
    before = remote_transport(offer_of("chromium_156_add_screen"))
    after = remote_transport(offer_of("chromium_156_ice_restart"))
    assert before.ufrag != after.ufrag
    assert before.password != after.password
    assert before.fingerprints == after.fingerprints


def test_a_stopped_m_line_is_answered_with_port_0():
    """Its place is kept, nothing is agreed for it."""
    offer = offer_of("chromium_156_stopped")
    section = agree(offer, ROOM, sendings_for(offer), previous=3)[2]
    assert section.rejected
    assert (section.direction, section.codecs, section.sending) == ("inactive", (), None)
    line = answered(offer).media[2]
    assert (line.port, line.direction, line.has("ice-ufrag")) == (0, "inactive", False)
    assert line.formats == offer.media[2].formats


def test_a_recycled_m_line_has_a_new_mid():
    """The place of a rejected m-line is taken by another."""
    sections = agree(offer_of("chromium_156_recycled"), ROOM, {}, previous=3)
    assert [(s.index, s.mid, s.rejected) for s in sections] == [
        (0, "0", False),
        (1, "1", False),
        (2, "3", False),
    ]


# Policy


@pytest.mark.parametrize(
    ("policy", "directions"),
    [
        (ROOM, ["sendrecv", "sendrecv"]),
        (Policy(ROOM.codecs, publish=False), ["sendonly", "sendonly"]),
        (Policy(ROOM.codecs, subscribe=False), ["recvonly", "recvonly"]),
        (Policy(ROOM.codecs, publish=False, subscribe=False), ["inactive", "inactive"]),
        (Policy(ROOM.codecs, video=False), ["sendrecv", "inactive"]),
    ],
)
def test_the_policy_narrows_the_direction(policy, directions):
    """A peer that may not publish is only sent to, and the other way round."""
    given_back = answered(offer_of("aiortc_1_16_audio_video_data"), policy)
    assert [m.direction for m in given_back.media[:2]] == directions


def test_a_codec_that_the_room_does_not_allow_goes_with_its_rtx():
    """VP8 alone: one codec and its repair format."""
    given_back = answered(offer_of("chromium_156_audio_video"), Policy(frozenset({"opus", "vp8"})))
    assert given_back.media[0].formats == ["111"]
    assert given_back.media[1].formats == ["96", "97"]


def test_an_m_line_without_an_allowed_codec_is_rejected():
    """And the data channel goes on without it; red alone is no codec."""
    given_back = answered(offer_of("chromium_156_simulcast_data"), Policy(frozenset({"red", "vp8"})))
    assert [m.port for m in given_back.media] == [0, 9, 9]
    assert given_back.bundled == ["1", "2"]
    assert given_back.media[1].has("candidate")


def test_a_slot_whose_ssrcs_are_not_known_says_none():
    """The direction is right all the same."""
    offer = offer_of("chromium_156_slots")
    line = answer(offer, agree(offer, ROOM, {}), LOCAL, "server").media[0]
    assert line.direction == "sendonly"
    assert not line.has("ssrc")


def test_feedback_that_nobody_here_gives_is_not_answered():
    """What we know of it is kept."""
    lines = (*AUDIO_LINES, "a=rtcp-fb:111 ccm tmmbr", "a=rtcp-fb:111 transport-cc")
    assert list(answered(description(*lines)).media[0].values("rtcp-fb")) == ["111 transport-cc"]


# One unusable m-line


@pytest.mark.parametrize(
    "broken",
    [
        ("m=audio 9 RTP/AVP 111", "a=mid:x", "a=rtcp-mux", "a=rtpmap:111 opus/48000/2"),
        ("m=audio 9 UDP/TLS/RTP/SAVPF 111", "a=mid:x", "a=rtpmap:111 opus/48000/2"),
        ("m=audio 9 UDP/TLS/RTP/SAVPF 111", "a=mid:x", "a=rtcp-mux"),
        ("m=audio 9 UDP/TLS/RTP/SAVPF x y", "a=mid:x", "a=rtcp-mux", "a=rtpmap:x"),
        ("m=text 9 UDP/TLS/RTP/SAVPF 98", "a=mid:x", "a=rtcp-mux", "a=rtpmap:98 t140/1000"),
        ("m=audio 0 UDP/TLS/RTP/SAVPF 111", "a=mid:x", "a=rtcp-mux", "a=rtpmap:111 opus/48000/2"),
        ("m=application 9 UDP/DTLS/SCTP webrtc-datachannel", "a=mid:x"),
        ("m=application 9 UDP/DTLS/SCTP webrtc-datachannel", "a=mid:x", "a=sctp-port:many"),
        ("m=application 9 DTLS/SCTP 5000", "a=mid:x", "a=sctpmap:5000 webrtc-datachannel 1024"),
        ("m=application 9 TCP webrtc-datachannel", "a=mid:x", "a=sctp-port:5000"),
        ("m=application 9 UDP/DTLS/SCTP webrtc-datachannel", "a=mid:x", "a=sctp-port:123456"),
    ],
)
def test_an_unusable_m_line_never_takes_the_offer_down(broken):
    """It is rejected; the one before it is agreed."""
    offer = description(*AUDIO_LINES, *broken, session=("a=group:BUNDLE 0 x",))
    good, bad = agree(offer, ROOM, {})
    assert not good.rejected
    assert bad.rejected
    given_back = answered(offer)
    assert given_back.bundled == ["0"]
    assert [m.port for m in given_back.media] == [9, 0]


@pytest.mark.parametrize("port", ["65536", "99999", "0"])
def test_a_data_channel_port_that_is_none_is_rejected(port):
    """SCTP ports have sixteen bits, and 0 means closed (RFC 8841 section 5.1)."""
    lines = ("m=application 9 UDP/DTLS/SCTP webrtc-datachannel", "a=mid:x", f"a=sctp-port:{port}")
    offer = description(*AUDIO_LINES, *lines, session=("a=group:BUNDLE 0 x",))
    assert agree(offer, ROOM, {})[1].rejected


def test_an_m_line_outside_the_bundle_is_rejected():
    """There is one transport; without a group it is the first m-line's."""
    second = [line.replace("mid:0", "mid:1") for line in AUDIO_LINES]
    lines = (*AUDIO_LINES, "m=audio 9 UDP/TLS/RTP/SAVPF 111", *second)
    ungrouped = description(*lines)
    assert [s.rejected for s in agree(ungrouped, ROOM, {})] == [False, True]
    assert not answer(ungrouped, agree(ungrouped, ROOM, {}), LOCAL, "server").session.has("group")
    other = description(*lines, session=("a=group:BUNDLE 1",))
    assert [s.rejected for s in agree(other, ROOM, {})] == [True, False]
    assert answered(other).media[1].has("candidate")


def test_bundle_only_m_lines_have_port_0_and_are_accepted():
    """RFC 9143 section 6: port 0 with a=bundle-only is no rejection."""
    offer = description(*AUDIO_LINES, "a=bundle-only", m="m=audio 0 UDP/TLS/RTP/SAVPF 111")
    assert not agree(offer, ROOM, {})[0].rejected


def test_an_offer_of_nothing_usable_is_answered_with_rejections():
    """Not with an error."""
    given_back = answered(offer_of("chromium_156_slots"), Policy(frozenset()))
    assert {m.port for m in given_back.media} == {0}
    assert given_back.bundled == []


@pytest.mark.parametrize(
    ("size", "expected"),
    [("a=max-message-size:1000", 1000), ("", 65_536), ("a=max-message-size:huge", 65_536)],
)
def test_the_message_size_is_the_clients_or_the_default(size, expected):
    """64 KiB where nothing (readable) is said (RFC 8841 section 6.1)."""
    offer = description(
        "a=mid:0", "a=sctp-port:5000", size, m="m=application 9 UDP/DTLS/SCTP webrtc-datachannel"
    )
    assert agree(offer, ROOM, {})[0].max_message_bytes == expected


# Whole offers that cannot be answered


@pytest.mark.parametrize(
    ("mids", "message"),
    [(("0", "0"), "its own"), (("0", ""), "its own"), (("x" * 17, "0"), "16"), (("0", "ä"), "16")],
)
def test_mids_must_be_usable(mids, message):
    """Unique, present, short, ASCII."""
    lines = "".join(f"m=audio 9 UDP/TLS/RTP/SAVPF 111\na=mid:{mid}\n" for mid in mids)
    with pytest.raises(ValueError, match=message):
        agree(sdp.parse("v=0\n" + lines), ROOM, {})


def test_an_offer_may_not_lose_m_lines():
    """RFC 8829 section 5.2.2: they stay for good."""
    with pytest.raises(ValueError, match="fewer"):
        agree(offer_of("chromium_156_audio_video"), ROOM, {}, previous=3)


# Transport


def test_the_transport_of_a_browser_is_read():
    """Credentials, role and every fingerprint strong enough."""
    chromium = remote_transport(offer_of("chromium_156_audio_video"))
    assert (len(chromium.ufrag), len(chromium.password), chromium.setup) == (4, 24, "actpass")
    assert [algorithm for algorithm, _ in chromium.fingerprints] == ["sha-256"]
    stock = remote_transport(offer_of("aiortc_1_16_audio_video_data"))
    assert [algorithm for algorithm, _ in stock.fingerprints] == ["sha-256", "sha-384", "sha-512"]


def test_the_transport_may_stand_in_the_session_part():
    """One for all m-lines; setup is actpass if not said."""
    offer = description("a=mid:0", session=("a=ice-ufrag:u", "a=ice-pwd:p", "a=fingerprint:SHA-256  AA"))
    assert remote_transport(offer) == RemoteTransport("u", "p", "actpass", (("sha-256", "AA"),))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (without("a=ice-ufrag"), "no m-line"),
        (without("a=ice-pwd"), "no m-line"),
        (without("a=fingerprint"), "no m-line"),
        ([*without("a=fingerprint"), "a=fingerprint:sha-1 AA"], "SHA-256"),
        ([*without("a=fingerprint"), "a=fingerprint:sha-256"], "without a value"),
        ([*without("a=ice-ufrag"), "a=ice-ufrag:a:b"], "ice-ufrag"),
        ([*without("a=ice-ufrag"), "a=ice-ufrag:" + "x" * 257], "ice-ufrag"),
        ([*without("a=ice-ufrag"), "a=ice-ufrag:ä"], "ice-ufrag"),
    ],
)
def test_a_transport_that_is_none_is_refused(lines, message):
    """Missing or weak credentials end the offer, with a reason."""
    with pytest.raises(ValueError, match=message):
        remote_transport(description(*lines))


@pytest.mark.parametrize(
    ("setup", "role", "answered_setup"),
    [("actpass", "server", "passive"), ("active", "server", "passive"), ("passive", "client", "active")],
)
def test_we_are_the_dtls_server_unless_the_client_insists(setup, role, answered_setup):
    """RFC 8842 section 5.3."""
    offer = description(*AUDIO_LINES, f"a=setup:{setup}")
    assert remote_transport(offer).our_role == role
    assert answered(offer, role=role).media[0].value("setup") == answered_setup


def test_candidates_prefer_udp():
    """Host candidates; TCP ones are passive and rank below."""
    udp, second, tcp = candidate_lines(
        [("192.0.2.1", 1, "udp"), ("2001:db8::1", 1, "udp"), ("192.0.2.1", 2, "tcp")]
    )
    assert udp.endswith("192.0.2.1 1 typ host")
    assert second.endswith("2001:db8::1 1 typ host")
    assert tcp.endswith("192.0.2.1 2 typ host tcptype passive")
    priorities = [int(line.split()[3]) for line in (udp, second, tcp)]
    assert priorities == sorted(priorities, reverse=True)
    assert len({line.split()[0] for line in (udp, second, tcp)}) == 3


def test_extensions_are_looked_up_by_uri():
    """None where it was not agreed."""
    section = Section(0, "0", "audio", extensions={3: AUDIO_LEVEL_URI})
    assert section.extension_id(AUDIO_LEVEL_URI) == 3
    assert section.extension_id(MID_URI) is None


# Arbitrary offers


@settings(max_examples=60)
@given(
    st.sampled_from(RECORDED),
    st.lists(
        st.tuples(st.integers(0, 10_000), st.sampled_from(("drop", "double", "cut", "digits", "space")))
    ),
)
def test_a_damaged_offer_is_answered_or_a_value_error(name, damages):
    """Whatever lines are lost, doubled or changed, nothing but ValueError comes of it."""
    lines = str(offer_of(name)).splitlines()
    for at, damage in damages:
        index = at % len(lines)
        line = lines[index]
        changed = {
            "drop": [],
            "double": [line, line],
            "cut": [line[: len(line) // 2]],
            "digits": [line.translate(str.maketrans("0123456789", "9876543210"))],
            "space": [line.replace(" ", "", 1)],
        }[damage]
        lines[index : index + 1] = changed or ["a=gone"]
    try:
        offer = sdp.parse("\n".join(lines))
        remote_transport(offer)
        sections = agree(offer, ROOM, sendings_for(offer))
    except ValueError:
        return
    given_back = sdp.parse(str(answer(offer, sections, LOCAL, "server")))
    assert len(given_back.media) == len(offer.media)
