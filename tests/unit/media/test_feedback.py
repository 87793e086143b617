"""What a feedback says is read as it was written, and nothing that anybody sends is worse than an error."""

import random
import struct

import pytest

from sfu.media import rtcp
from sfu.media.transport_cc import ArrivalRecorder, parse_feedback

TICK_S = 0.00025
# The reference time has 24 bits of 64 ms.
WRAP_TICKS = 2**24 * 256
MAX_TOLD = 4096
GONE, SMALL, LARGE, RESERVED = range(4)


def decode(body: bytes) -> tuple[int, list[int | None], int]:
    """Return (base number, ticks of each arrival or None, bytes read), read bit by bit.

    After draft-holmer-rmcat-transport-wide-cc-extensions-01 section 3.1.
    """
    at = 0

    def take(size: int) -> int:
        nonlocal at
        assert at + size <= len(body), "cut"
        at += size
        return int.from_bytes(body[at - size : at], "big")

    base, count, ticks, _ = take(2), take(2), take(3) * 256, take(1)
    symbols: list[int] = []
    while len(symbols) < count:
        bits = f"{take(2):016b}"
        if bits[0] == "0":
            symbols += [int(bits[1:3], 2)] * int(bits[3:], 2)
        elif bits[1] == "0":
            symbols += [int(bit) for bit in bits[2:]]
        else:
            symbols += [int(bits[place : place + 2], 2) for place in range(2, 16, 2)]
    arrivals: list[int | None] = []
    for symbol in symbols[:count]:
        if symbol == SMALL:
            ticks += take(1)
        elif symbol == LARGE:
            delta = take(2)
            ticks += delta - 0x10000 if delta >= 0x8000 else delta
        arrivals.append(ticks if symbol in (SMALL, LARGE) else None)
    return base, arrivals, at


def parsed(body: bytes) -> tuple[int, list[int | None]]:
    """Return what the server reads, in ticks; each time is a whole number of them."""
    base, arrivals = parse_feedback(body)
    ticks = [None if at is None else round(at / TICK_S) for at in arrivals]
    for at, tick in zip(arrivals, ticks, strict=True):
        assert at is None or abs(at - tick * TICK_S) < 1e-6
    return base, ticks


def header(count: int, base: int = 0, reference: int = 0, number: int = 0) -> bytes:
    return struct.pack("!HHI", base, count, reference << 8 | number)


def written(rng: random.Random, base: int, reference: int, deltas: list[int | None]) -> bytes:
    """Return a feedback in chunks of any kind that can say it; None: that one did not arrive."""
    symbols = [GONE if d is None else SMALL if 0 <= d <= 255 else LARGE for d in deltas]
    chunks, at = [], 0
    while at < len(symbols):
        run = 1
        while at + run < len(symbols) and symbols[at + run] == symbols[at]:
            run += 1
        fourteen, seven = symbols[at : at + 14], symbols[at : at + 7]
        ways = ["run", "two"] + (["one"] if LARGE not in fourteen else [])
        way = rng.choice(ways)
        if way == "run":
            run = rng.randint(1, run)
            chunks.append(symbols[at] << 13 | run)
            at += run
        elif way == "one":
            chunks.append(int("10" + "".join(map(str, fourteen)).ljust(14, "0"), 2))
            at += 14
        else:
            chunks.append(int("11" + "".join(f"{symbol:02b}" for symbol in seven).ljust(14, "0"), 2))
            at += 7
    body = header(len(deltas), base, reference, rng.randrange(256)) + struct.pack(f"!{len(chunks)}H", *chunks)
    for symbol, delta in zip(symbols, deltas, strict=True):
        if symbol != GONE:
            body += struct.pack("!B" if symbol == SMALL else "!h", delta)
    return body


def some_deltas(rng: random.Random) -> list[int | None]:
    """Return what happened to some packets: bursts of loss, small steps, large and negative ones."""
    deltas: list[int | None] = []
    while len(deltas) < 60:
        kind, run = rng.randrange(5), rng.choice((1, 1, 2, 5, 30))
        for _ in range(run):
            if kind == 0:
                deltas.append(None)
            elif kind < 3:
                deltas.append(rng.choice((0, 255, rng.randrange(256))))
            else:
                deltas.append(rng.choice((-0x8000, 0x7FFF, -1, 256, rng.randrange(-0x8000, 0x8000))))
    return deltas[: rng.randint(1, 60)]


@pytest.mark.parametrize("seed", range(200))
def test_a_feedback_in_any_chunks_is_read_as_it_was_written(seed):
    """Runs and both vectors, every size of delta, at any number and any time."""
    rng = random.Random(seed)
    base, reference = rng.choice((0, 0xFFF0, rng.randrange(0x10000))), rng.randrange(2**24)
    deltas, expected, ticks = some_deltas(rng), [], reference * 256
    for delta in deltas:
        ticks += delta or 0
        expected.append(None if delta is None else ticks)
    body = written(rng, base, reference, deltas)
    assert decode(body) == (base, expected, len(body))
    assert parsed(body) == (base, expected)


# What the recorder writes


def arrivals_of(rng: random.Random, number: int, now: float) -> list[tuple[int, float]]:
    """Return the packets of one interval in the order of their arrival: losses, reordering, pauses."""
    numbers = [number]
    while len(numbers) < 150 and numbers[-1] - number < 700:
        numbers.append(numbers[-1] + rng.choice((1, 1, 1, 1, 2, 3, rng.randint(4, 12), rng.randint(1, 150))))
    for _ in range(rng.randrange(30)):
        # The first one stays: what comes before it was told as lost already.
        at, further = rng.randrange(1, len(numbers)), rng.randrange(6)
        numbers.insert(min(len(numbers), at + further), numbers.pop(at))
    found = []
    for value in numbers:
        now += rng.choice((0.0, rng.random() / 500, rng.random() / 5, rng.random() / 2))
        found.append((value & 0xFFFF, now))
    return found


@pytest.mark.parametrize("seed", range(60))
def test_what_the_recorder_writes_is_read_back(seed):
    """Number for number and to a tick, over every wrap; and as the draft says it."""
    rng, recorder = random.Random(seed), ArrivalRecorder()
    number, now = rng.randrange(0xFF80, 0x10000), WRAP_TICKS * TICK_S - rng.random() * 60
    reference_wrapped = number_wrapped = negative = False
    for _ in range(6):
        arrivals = arrivals_of(rng, number, now)
        for value, at in arrivals:
            recorder.receive(value, at)
        now = arrivals[-1][1] + 0.2
        read: dict[int, float | None] = {}
        following = arrivals[0][0]
        for body in recorder.handle_timer(now):
            base, found, end = decode(body)
            assert end == len(body)
            assert parsed(body) == (base, found)
            assert base == following
            following = (base + len(found)) & 0xFFFF
            read |= {(base + step) & 0xFFFF: at for step, at in enumerate(parse_feedback(body)[1])}
            told = [at for at in found if at is not None]
            negative |= told != sorted(told)
            number_wrapped |= following < base
            reference_wrapped |= bool(told) and min(told) < WRAP_TICKS / 2 and now > WRAP_TICKS * TICK_S
        assert {value for value, at in read.items() if at is not None} == {value for value, _ in arrivals}
        for value, at in arrivals:
            apart = (read[value] - at + WRAP_TICKS * TICK_S / 2) % (WRAP_TICKS * TICK_S)
            assert apart == pytest.approx(WRAP_TICKS * TICK_S / 2, abs=TICK_S)
        # Now and then so large a gap that it begins anew.
        number = following + rng.choice((0, 0, 0, rng.randint(1001, 20_000)))
        now += rng.random() * 20
    assert (negative, number_wrapped, reference_wrapped) == (True, True, True)


def test_words_of_padding_behind_a_feedback_are_no_deltas():
    """A feedback comes as an RTCP packet of whole words, whatever its length."""
    paddings = set()
    for count in range(1, 20):
        recorder = ArrivalRecorder()
        for number in range(count):
            recorder.receive(number, 5.0 + number / 1000)
        (body,) = recorder.handle_timer(9.0)
        (packet,) = rtcp.parse(rtcp.transport_feedback(1, 2, body))
        paddings.add(len(packet.data) - len(body))
        assert parse_feedback(packet.data) == parse_feedback(body)
    assert paddings == {0, 1, 2, 3}


# Chunks by hand


@pytest.mark.parametrize(
    ("chunk", "deltas", "expected"),
    [
        ("0 00 0000011011101", "", [None] * 221),
        ("0 01 0000000000011", "01 02 03", [1, 3, 6]),
        ("0 10 0000000000010", "ffff 0100", [-1, 255]),
        ("1 0 01111100011100", "01" * 8, [None, 1, 2, 3, 4, 5, None, None, None, 6, 7, 8, None, None]),
        ("1 1 00 10 01 01 01 00 00", "8000 01 02 03", [None, -32768, -32767, -32765, -32762, None, None]),
    ],
)
def test_chunks_of_every_kind(chunk, deltas, expected):
    """A run, fourteen symbols of one bit, seven of two; deltas are signed where they have two bytes."""
    body = header(len(expected)) + int(chunk.replace(" ", ""), 2).to_bytes(2, "big") + bytes.fromhex(deltas)
    assert parsed(body) == (0, expected)


def test_a_reserved_symbol_is_a_packet_that_did_not_arrive():
    """Nothing stands among the deltas for it."""
    body = header(9) + struct.pack("!HH", RESERVED << 13 | 2, 0b11_11_01_11_01_00_00_00) + b"\x05\x06"
    assert parsed(body) == (0, [None, None, None, 5, None, 11, None, None, None])


def test_symbols_beyond_the_count_say_nothing():
    """Neither the rest of a vector nor that of a run, even where they claim an arrival."""
    vector = header(3) + b"\xbf\xff" + b"\x01\x01\x01"
    run = header(3) + struct.pack("!H", SMALL << 13 | 0x1FFF) + b"\x01\x01\x01"
    assert parsed(vector) == parsed(run) == (0, [1, 2, 3])


# What cannot be read


@pytest.mark.parametrize("count", [1, MAX_TOLD])
def test_as_many_packets_as_a_feedback_may_tell_of(count):
    assert parsed(header(count, base=7) + struct.pack("!H", count)) == (7, [None] * count)


@pytest.mark.parametrize("count", [0, MAX_TOLD + 1, 0xFFFF])
def test_a_feedback_of_nothing_or_of_too_much_is_an_error(count):
    """Eight runs say 65,535 packets; nobody has to make a list of them."""
    with pytest.raises(ValueError, match="no packets"):
        parse_feedback(header(count) + struct.pack("!H", 0x1FFF) * 8 + bytes(8))


def test_runs_of_no_length_end_with_the_feedback():
    """However many there are."""
    with pytest.raises(ValueError, match="cut in its chunks"):
        parse_feedback(header(5) + bytes(10_000))


@pytest.mark.parametrize("seed", range(30))
def test_a_feedback_that_was_cut_is_an_error(seed):
    """Wherever: each byte of it is needed."""
    rng = random.Random(seed)
    body = written(rng, 0xFFFE, rng.randrange(2**24), some_deltas(rng))
    for size in range(len(body)):
        with pytest.raises(ValueError, match="feedback"):
            parse_feedback(body[:size])
    assert parsed(body + b"\xff\xff\xff") == parsed(body)


def hostile(rng: random.Random) -> bytes:
    """Return noise: by itself, behind a header that may be true, or in the midst of a true feedback."""
    kind = rng.randrange(3)
    if kind == 0:
        return rng.randbytes(rng.randrange(80))
    if kind == 1:
        count = rng.choice((1, 20, 400, MAX_TOLD, MAX_TOLD + 1))
        return header(count, reference=rng.randrange(2**24)) + rng.randbytes(rng.randrange(1500))
    body = bytearray(written(rng, 0, 0, some_deltas(rng)))
    for _ in range(rng.randint(1, 4)):
        body[rng.randrange(len(body))] = rng.randrange(256)
    return bytes(body)


def test_noise_is_read_or_is_an_error():
    """Of 2,000 none does anything else, and what is read is what the draft says, never more than it may."""
    rng, read = random.Random(2000), 0
    for _ in range(2000):
        body = hostile(rng)
        try:
            base, found = parsed(body)
        except ValueError:
            count = int.from_bytes(body[2:4], "big") if len(body) >= 8 else 0
            if 0 < count <= MAX_TOLD:
                with pytest.raises(AssertionError, match="cut"):
                    decode(body)
            continue
        read += 1
        assert len(found) == int.from_bytes(body[2:4], "big") <= MAX_TOLD
        assert (base, found) == decode(body)[:2]
    assert 200 < read < 1800
