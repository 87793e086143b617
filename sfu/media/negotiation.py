"""A client's offer in, our answer out (RFC 8829, 9143, 8853, 8285).

The client always offers. Every codec of the offer that the room allows is answered with
its own payload type, parameters and feedback; an m-line that nobody can use is rejected
with port 0 and never takes the offer down with it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sfu.media import sdp
from sfu.media.codecs import RED, RTX, Codec

MID_URI = "urn:ietf:params:rtp-hdrext:sdes:mid"
RID_URI = "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id"
REPAIRED_RID_URI = "urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id"
AUDIO_LEVEL_URI = "urn:ietf:params:rtp-hdrext:ssrc-audio-level"
ABS_SEND_TIME_URI = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time"
DEPENDENCY_DESCRIPTOR_URI = (
    "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension"
)
PLAYOUT_DELAY_URI = "http://www.webrtc.org/experiments/rtp-hdrext/playout-delay"
TRANSPORT_CC_URI = "http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01"

# What travels from publisher to receiver as it is.
FORWARDED_EXTENSIONS = frozenset(
    {
        AUDIO_LEVEL_URI,
        "urn:3gpp:video-orientation",
        PLAYOUT_DELAY_URI,
        "http://www.webrtc.org/experiments/rtp-hdrext/video-content-type",
        "http://www.webrtc.org/experiments/rtp-hdrext/color-space",
        "http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time",
        DEPENDENCY_DESCRIPTOR_URI,
    }
)
_HOP_EXTENSIONS = frozenset({MID_URI, RID_URI, REPAIRED_RID_URI, ABS_SEND_TIME_URI, TRANSPORT_CC_URI})
_FEEDBACK = frozenset({"nack", "nack pli", "ccm fir", "transport-cc", "goog-remb"})

SCTP_PORT = 5000
MAX_DATA_MESSAGE_BYTES = 262_144


@dataclass(frozen=True, slots=True)
class Policy:
    """What a room lets this peer do."""

    codecs: frozenset[str]
    publish: bool = True
    subscribe: bool = True
    video: bool = True
    data: bool = True


@dataclass(frozen=True, slots=True)
class Sending:
    """The SSRCs of one slot: ours, for as long as the m-line lives."""

    ssrc: int
    rtx_ssrc: int
    stream_id: str


@dataclass(frozen=True, slots=True)
class LocalTransport:
    """What the answer says of our side."""

    ufrag: str
    password: str
    fingerprint: str
    # (ip, port, "udp" | "tcp")
    candidates: list[tuple[str, int, str]] = field(default_factory=list)
    session_id: int = 1
    version: int = 1


@dataclass(frozen=True, slots=True)
class RemoteTransport:
    """What the offer says of the client's side."""

    ufrag: str
    password: str
    setup: str
    fingerprints: tuple[tuple[str, str], ...]

    @property
    def our_role(self) -> str:
        """DTLS server unless the client insists on being it (RFC 8842 section 5.3)."""
        return "client" if self.setup == "passive" else "server"


@dataclass(frozen=True, slots=True)
class Section:
    """One m-line as it was agreed."""

    index: int
    mid: str
    kind: str  # "audio", "video" or "application"
    rejected: bool = False
    receives: bool = False  # the client publishes here
    sends: bool = False  # a slot
    codecs: tuple[Codec, ...] = ()
    extensions: dict[int, str] = field(default_factory=dict)
    rids: tuple[str, ...] = ()
    ssrcs: tuple[int, ...] = ()
    flows: tuple[tuple[int, int], ...] = ()
    reduced_size: bool = False
    sending: Sending | None = None
    sctp_port: int = 0
    max_message_bytes: int = 0

    def extension_id(self, uri: str) -> int | None:
        """Return the id under which an extension was agreed."""
        return next((number for number, known in self.extensions.items() if known == uri), None)

    @property
    def direction(self) -> str:
        """Our direction, as the answer states it."""
        return {(True, True): "sendrecv", (True, False): "recvonly", (False, True): "sendonly"}.get(
            (self.receives, self.sends), "inactive"
        )


def remote_transport(offer: sdp.Description) -> RemoteTransport:
    """Return the transport of an offer; everything is bundled on the first usable m-line.

    Raises:
        ValueError: ICE credentials or a fingerprint are missing.

    """
    for media in offer.media:
        ufrag = offer.attribute(media, "ice-ufrag")
        password = offer.attribute(media, "ice-pwd")
        fingerprints = list(media.values("fingerprint")) or list(offer.session.values("fingerprint"))
        if ufrag and password and fingerprints:
            if len(ufrag) > 256 or ":" in ufrag or not ufrag.isascii():
                raise ValueError("a=ice-ufrag is not one")
            pairs = [tuple(value.split(" ", 1)) for value in fingerprints]
            if any(len(pair) != 2 for pair in pairs):
                raise ValueError("a=fingerprint without a value")
            known = tuple((p[0].lower(), p[1].strip()) for p in pairs if p[0].lower() in _HASHES)
            if not known:
                raise ValueError("no fingerprint of SHA-256 or better")
            return RemoteTransport(ufrag, password, offer.attribute(media, "setup") or "actpass", known)
    raise ValueError("no m-line with ICE credentials and a fingerprint")


_HASHES = frozenset({"sha-256", "sha-384", "sha-512"})


def agree(
    offer: sdp.Description, policy: Policy, sendings: dict[str, Sending], previous: int = 0
) -> list[Section]:
    """Return what is agreed of each m-line, in their order.

    `sendings` has the SSRCs for the mids that may become slots; `previous` is the number
    of m-lines of the last description.

    Raises:
        ValueError: the offer as a whole cannot be answered.

    """
    if len(offer.media) < previous:
        raise ValueError("an offer may not have fewer m-lines than the one before")
    mids = [media.mid for media in offer.media]
    if len(set(mids)) != len(mids) or "" in mids:
        raise ValueError("every m-line needs its own a=mid")
    if any(len(mid) > 16 or not mid.isascii() for mid in mids):
        raise ValueError("a=mid longer than 16 characters")
    bundled = frozenset(offer.bundled or mids[:1])
    # Codecs and what is allowed of them, by the id of the tuple, which is kept: most m-lines have the same.
    allowed: dict[int, tuple[Sequence[Codec], tuple[Codec, ...]]] = {}
    return [
        _section(media, index, policy, sendings, allowed, in_bundle=mid in bundled)
        for index, (mid, media) in enumerate(zip(mids, offer.media, strict=True))
    ]


def _section(
    media: sdp.Media,
    index: int,
    policy: Policy,
    sendings: dict[str, Sending],
    allowed: dict[int, tuple[Sequence[Codec], tuple[Codec, ...]]],
    *,
    in_bundle: bool,
) -> Section:
    rejected = Section(index, media.mid, media.kind, rejected=True)
    if not in_bundle or (media.port == 0 and not media.has("bundle-only")):
        return rejected
    if media.kind == "application":
        return _data_section(media, index, policy) or rejected
    if media.kind not in ("audio", "video") or "RTP/SAVPF" not in media.protocol or not media.has("rtcp-mux"):
        return rejected
    offered = sdp.codecs(media)
    if id(offered) not in allowed:
        allowed[id(offered)] = offered, tuple(_allowed(offered, policy))
    _, codecs = allowed[id(offered)]
    if not codecs:
        return rejected
    usable = policy.video or media.kind == "audio"
    receives = usable and policy.publish and media.direction in ("sendonly", "sendrecv")
    sends = usable and policy.subscribe and media.direction in ("recvonly", "sendrecv")
    known = FORWARDED_EXTENSIONS | _HOP_EXTENSIONS
    return Section(
        index=index,
        mid=media.mid,
        kind=media.kind,
        receives=receives,
        sends=sends,
        codecs=codecs,
        extensions={number: uri for number, uri in sdp.extensions(media).items() if uri in known},
        rids=tuple(sdp.send_rids(media)[:4]) if receives else (),
        ssrcs=tuple(sdp.ssrcs(media)[:16]),
        flows=tuple(sdp.flow_groups(media)[:8]),
        reduced_size=media.has("rtcp-rsize"),
        sending=sendings.get(media.mid) if sends else None,
    )


def _data_section(media: sdp.Media, index: int, policy: Policy) -> Section | None:
    port = media.value("sctp-port") or ""
    is_port = port.isdecimal() and len(port) <= 5 and 0 < int(port) <= 65535
    if not policy.data or "DTLS/SCTP" not in media.protocol or not is_port:
        return None
    largest = media.value("max-message-size") or "65536"
    return Section(
        index,
        media.mid,
        media.kind,
        sctp_port=int(port),
        max_message_bytes=int(largest) if largest.isdecimal() and len(largest) < 12 else 65_536,
    )


def _allowed(offered: Sequence[Codec], policy: Policy) -> list[Codec]:
    primary = {c.payload_type for c in offered if c.name in policy.codecs and c.name != RED}
    kept = []
    for codec in offered:
        if codec.name == RTX:
            wanted = codec.repairs in primary
        elif codec.name == RED:  # audio only: RFC 2198 around Opus
            wanted = RED in policy.codecs and codec.clock_rate == 48_000 and bool(primary)
        else:
            wanted = codec.payload_type in primary
        if wanted:
            kept.append(codec)
    return kept if primary else []


def answer(
    offer: sdp.Description, sections: list[Section], local: LocalTransport, role: str
) -> sdp.Description:
    """Return the answer that says what was agreed."""
    session = sdp.Lines()
    session.lines = [
        ("v", "0"),
        ("o", f"- {local.session_id} {local.version} IN IP4 0.0.0.0"),
        ("s", "-"),
        ("t", "0 0"),
    ]
    accepted = [section for section in sections if not section.rejected]
    if offer.session.has("group"):
        session.add("group", " ".join(["BUNDLE", *(section.mid for section in accepted)]))
    session.add("ice-lite")
    if offer.session.has("extmap-allow-mixed"):
        session.add("extmap-allow-mixed")
    session.add("msid-semantic", "WMS *")
    media = []
    # The lines of codecs, by the id of their tuple.
    written: dict[int, list[tuple[str, str]]] = {}
    for section, offered in zip(sections, offer.media, strict=True):
        line = sdp.Media(kind=offered.kind, port=0, protocol=offered.protocol, formats=list(offered.formats))
        line.lines = [("c", "IN IP4 0.0.0.0")]
        line.add("mid", section.mid)
        if section.rejected:
            line.add("inactive")
        else:
            line.port = 9
            _transport_lines(line, local, "active" if role == "client" else "passive")
            _data_lines(line) if section.kind == "application" else _rtp_lines(line, section, written)
        media.append(line)
    return sdp.Description(session, media)


def _transport_lines(line: sdp.Media, local: LocalTransport, setup: str) -> None:
    """Write the transport, candidates included, on every m-line: aiortc takes those of the last."""
    line.add("ice-ufrag", local.ufrag)
    line.add("ice-pwd", local.password)
    line.add("fingerprint", f"sha-256 {local.fingerprint}")
    line.add("setup", setup)
    for candidate in candidate_lines(local.candidates):
        line.add("candidate", candidate)
    line.add("end-of-candidates")


def candidate_lines(candidates: list[tuple[str, int, str]]) -> Iterator[str]:
    """Yield host candidates, UDP before TCP (RFC 8839 section 5.1, RFC 6544 section 4.5)."""
    for number, (ip, port, kind) in enumerate(candidates, 1):
        preference = (126 if kind == "udp" else 90) << 24 | (65535 - number) << 8 | 255
        yield f"{number} 1 {kind} {preference} {ip} {port} typ host" + (
            " tcptype passive" if kind == "tcp" else ""
        )


def _data_lines(line: sdp.Media) -> None:
    line.add("sctp-port", str(SCTP_PORT))
    line.add("max-message-size", str(MAX_DATA_MESSAGE_BYTES))


def _rtp_lines(line: sdp.Media, section: Section, written: dict[int, list[tuple[str, str]]]) -> None:
    line.formats = [str(codec.payload_type) for codec in section.codecs]
    line.add(section.direction)
    line.add("rtcp", "9 IN IP4 0.0.0.0")
    line.add("rtcp-mux")
    if section.reduced_size:
        line.add("rtcp-rsize")
    for number, uri in section.extensions.items():
        line.add("extmap", f"{number} {uri}")
    if id(section.codecs) not in written:
        written[id(section.codecs)] = _codec_lines(section.codecs)
    line.lines += written[id(section.codecs)]
    if section.rids:
        for rid in section.rids:
            line.add("rid", f"{rid} recv")
        line.add("simulcast", f"recv {';'.join(section.rids)}")
    if section.sending is not None:
        _sending_lines(line, section, section.sending)


def _codec_lines(codecs: Sequence[Codec]) -> list[tuple[str, str]]:
    lines = sdp.Lines()
    for codec in codecs:
        channels = f"/{codec.channels}" if codec.channels > 1 else ""
        lines.add("rtpmap", f"{codec.payload_type} {codec.encoding}/{codec.clock_rate}{channels}")
        for feedback in codec.feedback:
            if feedback in _FEEDBACK:
                lines.add("rtcp-fb", f"{codec.payload_type} {feedback}")
        if codec.fmtp:
            lines.add("fmtp", f"{codec.payload_type} {codec.fmtp}")
    return lines.lines


def _sending_lines(line: sdp.Media, section: Section, sending: Sending) -> None:
    has_rtx = any(codec.name == RTX for codec in section.codecs)
    line.add("msid", f"{sending.stream_id} {section.mid}")
    if has_rtx:
        line.add("ssrc-group", f"FID {sending.ssrc} {sending.rtx_ssrc}")
    for ssrc in (sending.ssrc, sending.rtx_ssrc) if has_rtx else (sending.ssrc,):
        line.add("ssrc", f"{ssrc} cname:{sending.stream_id}")
        line.add("ssrc", f"{ssrc} msid:{sending.stream_id} {section.mid}")
