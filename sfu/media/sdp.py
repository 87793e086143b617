"""Session descriptions, read and written with nothing lost (RFC 8866, 8829).

A description is kept as its lines; what is asked of it is read from them. So a line that
nobody here knows still stands where it stood.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain

from sfu.media.codecs import Codec, parameters

# Chromium's largest offers are near 60 KB and 60 m-lines; beyond these it is an attack.
MAX_SDP_BYTES = 240 * 1024
MAX_MEDIA_SECTIONS = 128
MAX_CODECS = 64
MAX_EXTENSIONS = 32


@dataclass(slots=True)
class Lines:
    """Lines of one level of a description, each `type=value`."""

    lines: list[tuple[str, str]] = field(default_factory=list)
    # The attributes of the first so many lines, by name.
    _found: dict[str, list[str]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _looked_at: int = field(default=0, init=False, repr=False, compare=False)

    def _attributes(self) -> dict[str, list[str]]:
        if self._looked_at < len(self.lines):
            found = self._found
            for kind, value in self.lines[self._looked_at :]:
                if kind == "a":
                    name, _, rest = value.partition(":")
                    if name in found:
                        found[name].append(rest)
                    else:
                        found[name] = [rest]
            self._looked_at = len(self.lines)
        return self._found

    def values(self, name: str) -> Sequence[str]:
        """Return the values of every `a=name` or `a=name:value` line."""
        return self._attributes().get(name, ())

    def value(self, name: str) -> str | None:
        """Return the first value of an attribute, or None."""
        values = self.values(name)
        return values[0] if values else None

    def has(self, name: str) -> bool:
        return bool(self.values(name))

    def add(self, name: str, value: str | None = None) -> None:
        """Add an attribute line."""
        self.lines.append(("a", name if value is None else f"{name}:{value}"))

    def __str__(self) -> str:
        return "".join(f"{kind}={value}\r\n" for kind, value in self.lines)


_DIRECTIONS = frozenset({"sendrecv", "sendonly", "recvonly", "inactive"})


@dataclass(slots=True)
class Media(Lines):
    """One m-line and what stands below it."""

    kind: str = ""
    port: int = 0
    protocol: str = ""
    formats: list[str] = field(default_factory=list)

    @property
    def mid(self) -> str:
        return self.value("mid") or ""

    @property
    def direction(self) -> str:
        """`sendrecv` unless said otherwise (RFC 8866 section 6.7); the first that is said holds."""
        return next((name for name in self._attributes() if name in _DIRECTIONS), "sendrecv")

    def __str__(self) -> str:
        return f"m={self.kind} {self.port} {self.protocol} {' '.join(self.formats)}\r\n" + Lines.__str__(self)


@dataclass(slots=True)
class Description:
    """A whole description: the session's lines, then the m-lines."""

    session: Lines = field(default_factory=Lines)
    media: list[Media] = field(default_factory=list)

    def __str__(self) -> str:
        return str(self.session) + "".join(map(str, self.media))

    def attribute(self, media: Media, name: str) -> str | None:
        """Return an attribute of an m-line, or of the session where it may stand for all."""
        value = media.value(name)
        return self.session.value(name) if value is None else value

    @property
    def bundled(self) -> list[str]:
        """The mids of the first BUNDLE group (RFC 9143)."""
        for value in self.session.values("group"):
            words = value.split()
            if words and words[0] == "BUNDLE":
                return words[1:]
        return []


def parse(text: str) -> Description:
    """Return the description that a text holds.

    Raises:
        ValueError: it is no description; the message says in which line.

    """
    if len(text) > MAX_SDP_BYTES:
        raise ValueError(f"description longer than {MAX_SDP_BYTES} bytes")
    description = Description()
    target: Lines = description.session
    for number, line in enumerate(text.splitlines(), 1):
        if not line:
            continue
        if len(line) < 2 or line[1] != "=" or not line[0].isalpha():
            raise ValueError(f"line {number} is not type=value")
        kind, value = line[0], line[2:]
        if not description.session.lines and (kind, value) != ("v", "0"):
            raise ValueError(f"line {number} is not v=0")
        if kind == "m":
            if len(description.media) == MAX_MEDIA_SECTIONS:
                raise ValueError(f"more than {MAX_MEDIA_SECTIONS} m-lines")
            target = _media(value, number)
            description.media.append(target)
        else:
            target.lines.append((kind, value))
    if not description.session.lines:
        raise ValueError("empty description")
    return description


def _media(value: str, number: int) -> Media:
    words = value.split()
    if len(words) < 4 or not words[1].split("/")[0].isdecimal() or int(words[1].split("/")[0]) > 65535:
        raise ValueError(f"line {number} is not an m-line")
    return Media(kind=words[0], port=int(words[1].split("/")[0]), protocol=words[2], formats=words[3:])


# What static payload types mean without an rtpmap (RFC 3551 section 6).
_STATIC = {0: "PCMU/8000", 8: "PCMA/8000", 9: "G722/8000", 13: "CN/8000"}


# Of so many m-lines with so many characters about their codecs it is remembered what they are: those of one
# browser are all the same, and each has a hundred lines.
_REMEMBERED, _REMEMBERED_CHARACTERS = 64, 20_000


def codecs(media: Media) -> tuple[Codec, ...]:
    """Return the codecs of an m-line in the order of its formats; unreadable ones are left out.

    The same lines give the same tuple.
    """
    told = (media.formats, media.values("rtpmap"), media.values("fmtp"), media.values("rtcp-fb"))
    read = _codecs if sum(map(len, chain(*told))) <= _REMEMBERED_CHARACTERS else _codecs.__wrapped__
    return read(*map(tuple, told))


@lru_cache(_REMEMBERED)
def _codecs(
    formats: tuple[str, ...], rtpmap_: tuple[str, ...], fmtp_: tuple[str, ...], rtcp_fb: tuple[str, ...]
) -> tuple[Codec, ...]:
    fmtps, feedback = _by_payload(fmtp_), _feedback(formats, rtcp_fb)
    rtpmaps = _STATIC | {number: values[0] for number, values in _by_payload(rtpmap_).items()}
    found = []
    for word in formats[:MAX_CODECS]:
        payload_type = _number(word, 127)
        rtpmap = rtpmaps.get(payload_type) if payload_type is not None else None
        if payload_type is None or rtpmap is None:
            continue
        encoding, _, rest = rtpmap.partition("/")
        clock, _, channels = rest.partition("/")
        clock_rate = _number(clock, 1_000_000)
        if not clock_rate:
            continue
        fmtp = ";".join(fmtps.get(payload_type, ()))
        values_ = parameters(fmtp)
        found.append(
            Codec(
                payload_type=payload_type,
                name=encoding.lower(),
                encoding=encoding,
                clock_rate=clock_rate,
                channels=_number(channels, 255) or 1,
                fmtp=fmtp,
                feedback=tuple(feedback.get(payload_type, ())),
                repairs=_number(values_.get("apt", ""), 127) if encoding.lower() == "rtx" else None,
                parameters=values_,
            )
        )
    return tuple(found)


def _by_payload(lines: Sequence[str]) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for value in lines:
        word, _, rest = value.partition(" ")
        number = _number(word, 127)
        if number is not None:
            found.setdefault(number, []).append(rest.strip())
    return found


def _feedback(formats: Sequence[str], lines: Sequence[str]) -> dict[int, list[str]]:
    found = _by_payload(lines)
    for value in lines:
        if value.startswith("* "):
            for word in formats:
                number = _number(word, 127)
                if number is not None:
                    found.setdefault(number, []).append(value[2:].strip())
    return found


def extensions(media: Media) -> dict[int, str]:
    """Return the header extensions of an m-line as id → URI (RFC 8285 section 8)."""
    found: dict[int, str] = {}
    for value in media.values("extmap"):
        words = value.split()
        number = _number(words[0].split("/")[0], 255) if len(words) > 1 else None
        if number and len(found) < MAX_EXTENSIONS:
            found[number] = words[1]
    return found


def ssrcs(media: Media) -> list[int]:
    """Return the SSRCs that an m-line names, each once, in order."""
    found: dict[int, None] = {}
    for value in media.values("ssrc"):
        number = _number(value.split(" ")[0], 0xFFFFFFFF)
        if number is not None:
            found[number] = None
    return list(found)


def flow_groups(media: Media) -> list[tuple[int, int]]:
    """Return the (primary, rtx) SSRC pairs of `a=ssrc-group:FID` (RFC 5576)."""
    pairs = []
    for value in media.values("ssrc-group"):
        words = value.split()
        numbers = [_number(word, 0xFFFFFFFF) for word in words[1:3]]
        if words[:1] == ["FID"] and len(numbers) == 2 and None not in numbers:
            pairs.append((numbers[0] or 0, numbers[1] or 0))
    return pairs


def send_rids(media: Media) -> list[str]:
    """Return the rids that the offerer sends, in the order of `a=simulcast` (RFC 8853)."""
    offered = [words[0] for value in media.values("rid") if (words := value.split())[1:2] == ["send"]]
    simulcast = (media.value("simulcast") or "").split()
    if "send" not in simulcast[:-1]:
        return []
    listed = simulcast[simulcast.index("send") + 1].split(";")
    # Alternatives ("a,b") are narrowed to the first; "~" only says that it starts paused.
    names = [alternatives.split(",")[0].lstrip("~") for alternatives in listed]
    return [name for name in names if name in offered]


def _number(word: str, most: int) -> int | None:
    if not word.isascii() or not word.isdecimal() or len(word) > 10:
        return None
    value = int(word)
    return value if value <= most else None
