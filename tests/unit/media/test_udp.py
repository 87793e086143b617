"""The UDP socket: rows out, rows in, batched or one at a time."""

import asyncio
import errno
import socket
import struct
import time
from dataclasses import dataclass, field

import pytest

from sfu.clock import unix_seconds
from sfu.counters import MediaCounters
from sfu.media import rtcp, udp
from sfu.media.datagrams import SOL_UDP, STRIDE, UDP_SEGMENT, Held
from sfu.media.srtp import Rows
from sfu.media.udp import ASIDE_MOST, BATCH, MAX_BATCHES, OUTGOING_ROWS, DatagramReceiver, UdpPort


def ipv6_works() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not ipv6_works(), reason="this machine has no IPv6")
HOSTS = ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)]
TIMEOUT_S = 5


@dataclass
class Receiver(DatagramReceiver):
    """Who takes what a port brings, and waits for so much of it."""

    rows: Rows
    got: list[bytes] = field(default_factory=list)
    senders: list[bytes] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    # How long before it was read each had come.
    ages: list[float] = field(default_factory=list)

    def receive_datagram(self, index: int, length: int, sockaddr: bytes, now: float, arrived: float) -> None:
        at = index * self.rows.stride
        self.got.append(bytes(self.rows.buffer[at : at + length]))
        self.senders.append(sockaddr)
        assert now == 42.0
        self.ages.append(now - arrived)
        self.arrived.set()

    async def wait_for(self, count: int) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while len(self.got) < count:
                self.arrived.clear()
                await self.arrived.wait()


class Port:
    """A port with its counters and its receiver."""

    def __init__(self, host: str, batched: bool) -> None:
        self.counters = MediaCounters()
        self.udp = UdpPort(host, 0, self.counters, lambda: 42.0, batched=batched)
        self.host = host
        self.receiver = Receiver(self.udp.incoming)
        self.udp.start(self.receiver)

    @property
    def sockaddr(self) -> bytes:
        """Where others reach it, as the kernel writes it."""
        return sockaddr(self.host, self.udp.port)

    def send(self, data: bytes, to: bytes) -> None:
        self.udp.outgoing.put(self.udp.reserve(), data)
        self.udp.commit(to)


def sockaddr(host: str, port: int) -> bytes:
    if ":" in host:
        packed = socket.inet_pton(socket.AF_INET6, host)
        return struct.pack("=H", socket.AF_INET6) + struct.pack("!HI16sI", port, 0, packed, 0)
    return struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", port, socket.inet_aton(host))


@pytest.fixture
async def ports():
    """Make ports that are closed at the end."""
    made: list[Port] = []

    def make(host: str = "127.0.0.1", batched: bool = True) -> Port:
        made.append(Port(host, batched))
        return made[-1]

    yield make
    for port in made:
        port.udp.close()


both_ways = pytest.mark.parametrize("batched", [True, False])


@both_ways
@pytest.mark.parametrize("host", HOSTS)
async def test_rows_arrive_as_they_were_sent(ports, host, batched):
    """All of a batch, whole, with the sender's address and the time."""
    a, b = ports(host, batched), ports(host, batched)
    sent = [bytes((n,)) * (n + 1) for n in range(100)]
    for data in sent:
        a.send(data, b.sockaddr)
    assert b.receiver.got == []
    a.udp.flush()
    await b.receiver.wait_for(100)
    assert b.receiver.got == sent
    assert b.udp.address(b.receiver.senders[0]) == (host, a.udp.port)
    assert set(b.receiver.senders) == {a.sockaddr}
    assert (a.counters.datagrams_sent, b.counters.datagrams_received) == (100, 100)
    a.udp.flush()
    assert a.counters.datagrams_sent == 100


def be_away(seconds: float) -> None:
    """Let nobody in this process do anything for a while."""
    time.sleep(seconds)


async def test_when_a_datagram_arrived_is_told_by_the_kernel(ports):
    """A process that had no processor for a while reads it late, and knows."""
    a, b = ports(), ports()
    a.udp.send_now(b"first", b.sockaddr)
    be_away(0.04)
    a.udp.send_now(b"second", b.sockaddr)
    be_away(0.02)
    await b.receiver.wait_for(2)
    first, second = b.receiver.ages
    assert first - second >= 0.04
    assert 0.02 <= second < udp.OLDEST_S


async def test_a_wall_clock_that_is_set_makes_nothing_old(ports):
    """What seems to have arrived long ago, or in the future, has arrived now."""
    a, b = ports(), ports()
    for step in (3600, -3600):
        b.udp.wallclock = lambda step=step: unix_seconds() + step
        a.udp.send_now(b"x", b.sockaddr)
        await b.receiver.wait_for(len(b.receiver.ages) + 1)
    assert b.receiver.ages == [0.0, 0.0]


async def test_without_batches_it_has_arrived_when_it_is_read(ports):
    a, b = ports(batched=False), ports(batched=False)
    a.udp.send_now(b"x", b.sockaddr)
    await b.receiver.wait_for(1)
    assert b.receiver.ages == [0.0]


@both_ways
async def test_an_answer_goes_to_where_the_question_came_from(ports, batched):
    """The address of a received row is one to send to."""
    a, b = ports(batched=batched), ports(batched=batched)
    a.udp.send_now(b"question", b.sockaddr)
    await b.receiver.wait_for(1)
    b.send(b"answer", b.receiver.senders[0])
    b.udp.flush()
    await a.receiver.wait_for(1)
    assert a.receiver.got == [b"answer"]


@needs_ipv6
@both_ways
async def test_ipv4_reaches_a_port_of_both_families(ports, batched):
    """Its address is written without the prefix, and answered all the same."""
    both, four = ports("::", batched), ports("127.0.0.1", batched)
    four.udp.send_now(b"question", sockaddr("127.0.0.1", both.udp.port))
    await both.receiver.wait_for(1)
    came_from = both.receiver.senders[0]
    assert both.udp.address(came_from) == ("127.0.0.1", four.udp.port)
    both.udp.send_now(b"first", came_from)
    both.send(b"second", came_from)
    both.udp.flush()
    await four.receiver.wait_for(2)
    assert four.receiver.got == [b"first", b"second"]


@both_ways
async def test_an_oversize_datagram_is_dropped_and_counted(ports, batched):
    """The one behind it arrives; the largest that fits does too."""
    port = ports(batched=batched)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.connect(("127.0.0.1", port.udp.port))
        for data in (bytes(65507), bytes(STRIDE), bytes(STRIDE - 1), b"", b"x"):
            stranger.send(data)
    await port.receiver.wait_for(3)
    assert port.receiver.got == [bytes(STRIDE - 1), b"", b"x"]
    assert port.counters.dropped == {"oversize": 2}
    assert port.counters.datagrams_received == 5


@both_ways
async def test_a_closed_target_does_not_hurt(ports, batched):
    """Nobody listens there; what goes elsewhere arrives."""
    a, b = ports(batched=batched), ports(batched=batched)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
        gone.bind(("127.0.0.1", 0))
        nowhere = sockaddr("127.0.0.1", gone.getsockname()[1])
    for n in range(10):
        a.send(b"to nobody", nowhere)
        a.send(bytes((n,)), b.sockaddr)
        a.udp.flush()
    await b.receiver.wait_for(10)
    assert b.receiver.got == [bytes((n,)) for n in range(10)]


@both_ways
async def test_a_forbidden_target_is_counted_and_the_rest_goes_out(ports, batched):
    """Broadcast and port 0 are refused by the kernel, one datagram at a time."""
    a, b = ports(batched=batched), ports(batched=batched)
    a.send(b"before", b.sockaddr)
    a.send(b"refused", sockaddr("255.255.255.255", 9))
    a.send(b"refused", sockaddr("127.0.0.1", 0))
    a.send(b"after", b.sockaddr)
    a.udp.flush()
    await b.receiver.wait_for(2)
    assert b.receiver.got == [b"before", b"after"]
    assert a.counters.dropped == {"unreachable": 2}
    assert a.counters.datagrams_sent == 2


@both_ways
async def test_a_full_batch_flushes_itself(ports, batched):
    """Reserving one row more than there are sends what waits."""
    a, b = ports(batched=batched), ports(batched=batched)
    for n in range(OUTGOING_ROWS + 1):
        a.send(n.to_bytes(2, "big"), b.sockaddr)
    assert a.counters.datagrams_sent == OUTGOING_ROWS
    a.udp.flush()
    await b.receiver.wait_for(OUTGOING_ROWS + 1)
    assert b.receiver.got == [n.to_bytes(2, "big") for n in range(OUTGOING_ROWS + 1)]


@both_ways
async def test_one_turn_of_the_loop_takes_a_bounded_number(ports, batched):
    """What is beyond it waits for the next turn, so that others get theirs."""
    a, b = ports(batched=batched), ports(batched=batched)
    total = BATCH * MAX_BATCHES + 20
    for n in range(total):
        a.send(n.to_bytes(2, "big"), b.sockaddr)
    a.udp.flush()
    b.udp._readable()
    assert len(b.receiver.got) == BATCH * MAX_BATCHES
    await b.receiver.wait_for(total)
    assert b.receiver.got == [n.to_bytes(2, "big") for n in range(total)]


@both_ways
async def test_a_wake_up_without_a_datagram_is_nothing(ports, batched):
    """The kernel may wake a reader for a datagram that it then throws away."""
    port = ports(batched=batched)
    port.udp._readable()
    assert (port.receiver.got, port.counters.datagrams_received) == ([], 0)


@both_ways
async def test_a_row_that_was_not_committed_is_not_sent(ports, batched):
    """Reserving it again gives the same."""
    a, b = ports(batched=batched), ports(batched=batched)
    first = a.udp.reserve()
    a.udp.outgoing.put(first, b"given up")
    assert a.udp.reserve() == first
    a.udp.flush()
    a.send(b"sent", b.sockaddr)
    a.udp.flush()
    await b.receiver.wait_for(1)
    assert b.receiver.got == [b"sent"]


def send_rows(port: Port, rows: list[bytes], names: bytes) -> None:
    """Send rows as a batch does: one to each address; libsrtp refused those that are empty."""
    for index, data in enumerate(rows):
        port.udp.burst.rows(0).put(index, data)
    assert port.udp.send_rows(names, len(rows), refused=rows.count(b""))


@both_ways
@pytest.mark.parametrize("host", HOSTS)
async def test_rows_go_to_several_addresses(ports, host, batched):
    """At once, behind what was queued before, each row as long as it is."""
    a, b, c = (ports(host, batched) for _ in range(3))
    a.send(b"before", b.sockaddr)
    send_rows(a, [b"1", b"22", b"333", b"4444"], (b.sockaddr + c.sockaddr) * 2)
    send_rows(a, [b"5"], c.sockaddr)
    assert a.counters.datagrams_sent == 6
    await b.receiver.wait_for(3)
    await c.receiver.wait_for(3)
    assert b.receiver.got == [b"before", b"1", b"333"]
    assert c.receiver.got == [b"22", b"4444", b"5"]


@both_ways
async def test_audiences_take_turns_with_the_rows(ports, batched):
    """With the same lengths and with others, to the same audience and to another."""
    a, b, c = (ports(batched=batched) for _ in range(3))
    both = b.sockaddr + c.sockaddr
    for rows in ([b"one", b"two"], [b"six", b"ten"], [b"eight", b"seven"], [b"a", b""], [b"b", b"c"]):
        send_rows(a, rows, both)
    await b.receiver.wait_for(5)
    await c.receiver.wait_for(4)
    assert b.receiver.got == [b"one", b"six", b"eight", b"a", b"b"]
    assert c.receiver.got == [b"two", b"ten", b"seven", b"c"]
    send_rows(a, [b"x", b"y"], c.sockaddr + b.sockaddr)
    send_rows(a, [b"z"], b.sockaddr)
    send_rows(a, [b"p", b"q"], both)
    await b.receiver.wait_for(8)
    await c.receiver.wait_for(6)
    assert (b.receiver.got[5:], c.receiver.got[4:]) == ([b"y", b"z", b"p"], [b"x", b"q"])
    assert a.counters.dropped == {}


@both_ways
async def test_rows_without_a_length_go_nowhere(ports, batched):
    """The others arrive whole, at their own addresses."""
    a, b, c = (ports(batched=batched) for _ in range(3))
    names = c.sockaddr + b.sockaddr * 2 + c.sockaddr * 2
    send_rows(a, [b"", b"1" * 900, b"", b"", b"22"], names)
    send_rows(a, [b"", b""], b.sockaddr * 2)
    await b.receiver.wait_for(1)
    await c.receiver.wait_for(1)
    assert (b.receiver.got, c.receiver.got) == ([b"1" * 900], [b"22"])
    assert a.counters.datagrams_sent == 2
    assert a.counters.dropped == {}


async def test_rows_that_find_the_socket_full_say_so(ports, monkeypatch):
    """What went before it is sent; an address that cannot be reached costs only itself."""
    a, b = ports(), ports()
    answers = [2, -errno.EPERM, 1, -errno.EAGAIN]
    real = a.udp._sendmmsg

    def sendmmsg(fileno, headers, count):
        answer = answers.pop(0)
        return real(fileno, headers, answer) if answer > 0 else answer

    monkeypatch.setattr(a.udp, "_sendmmsg", sendmmsg)
    for index in range(6):
        a.udp.burst.rows(0).put(index, b"%d" % index)
    assert a.udp.send_rows(b.sockaddr * 6, 6) is False
    await b.receiver.wait_for(3)
    assert b.receiver.got == [b"0", b"1", b"3"]
    assert a.counters.dropped == {"unreachable": 1, "socket_full": 2}
    assert a.counters.datagrams_sent == 3


# Bursts: several packets to each address


class Batch(Held):
    """What writes packets into the rows of a burst: the same for every address, a byte apart."""

    def __init__(self, port: Port, *to: Port) -> None:
        self.port, self.names, self.count = port, b"".join(each.sockaddr for each in to), len(to)
        # How many packets went out at once.
        self.bursts: list[int] = []
        self.took: list[bool] = []

    def forward(self, data: bytes) -> None:
        at = self.port.udp.hold(self, len(data))
        for index in range(self.count):
            self.port.udp.burst.rows(at).put(index, bytes((index,)) + data[1:])

    def release(self, packets: int) -> None:
        self.bursts.append(packets)
        self.took.append(self.port.udp.send_rows(self.names, self.count, packets))


def packet(number: int, length: int) -> bytes:
    return b"\0" + bytes((number,)) * (length - 1)


@both_ways
@pytest.mark.parametrize("host", HOSTS)
async def test_packets_of_a_burst_arrive_one_by_one(ports, host, batched):
    """Each whole, in order, at each address; the last may be shorter; a longer burst, then a shorter one."""
    a, b, c = (ports(host, batched) for _ in range(3))
    batch = Batch(a, b, c, b)
    sent = [packet(n, length) for n, length in enumerate((900, 900, 900, 500, 700, 700, 20, 20, 1200))]
    for data in sent:
        batch.forward(data)
    a.udp.flush()
    assert batch.bursts == ([4, 3, 1, 1] if batched else [1] * 9)
    await b.receiver.wait_for(18)
    await c.receiver.wait_for(9)
    for index in (0, 2):
        assert [got for got in b.receiver.got if got[0] == index] == [bytes((index,)) + d[1:] for d in sent]
    assert c.receiver.got == [b"\1" + data[1:] for data in sent]
    assert a.counters.datagrams_sent == 27
    assert a.counters.dropped == {}


async def test_what_does_not_fit_a_burst_begins_another(ports):
    """A longer one, one after a shorter one, one too many, and another's: all in order."""
    a, b = ports(), ports()
    one, other = Batch(a, b), Batch(a, b)
    lengths = [50, 50, 60, 60, 40, 40, *[30] * (udp.BURST + 2)]
    for n, length in enumerate(lengths):
        one.forward(packet(n, length))
    assert one.bursts == [2, 3, 2, udp.BURST]
    other.forward(packet(100, 30))
    one.forward(packet(101, 30))
    assert (one.bursts[4:], other.bursts) == ([1], [1])
    a.udp.flush()
    await b.receiver.wait_for(len(lengths) + 2)
    assert [got[1] for got in b.receiver.got] == [*range(len(lengths)), 100, 101]


async def test_a_burst_goes_out_before_what_comes_after_it(ports):
    """Behind what was queued before, and before a row is queued, or the next datagrams are read."""
    a, b = ports(), ports()
    batch = Batch(a, b)
    a.send(b"-1", b.sockaddr)
    batch.forward(packet(1, 30))
    a.send(b"-2", b.sockaddr)
    assert batch.bursts == [1]
    batch.forward(packet(3, 30))
    b.udp.send_now(b"x", a.sockaddr)
    await a.receiver.wait_for(1)
    assert batch.bursts == [1, 1]
    a.udp.flush()
    await b.receiver.wait_for(4)
    assert [got[1] for got in b.receiver.got] == [ord("1"), 1, ord("2"), 3]
    a.udp.flush()
    assert batch.bursts == [1, 1]


async def test_a_device_that_cuts_nothing_gets_packets_one_by_one(ports, monkeypatch):
    """At once, to whom it could not be sent together, and from then on to everybody."""
    a, b = ports(), ports()
    answers, real = [-errno.EIO, -errno.EIO], a.udp._sendmmsg

    def sendmmsg(*arguments):
        return answers.pop() if answers else real(*arguments)

    monkeypatch.setattr(a.udp, "_sendmmsg", sendmmsg)
    batch = Batch(a, b, b, b)
    for n in range(3):
        batch.forward(packet(n, 30))
    a.udp.flush()
    for n in (3, 4):
        batch.forward(packet(n, 30))
    a.udp.flush()
    assert batch.bursts == [3, 1, 1]
    assert batch.took == [True] * 3
    await b.receiver.wait_for(15)
    for index in range(3):
        assert [got[1] for got in b.receiver.got if got[0] == index] == [0, 1, 2, 3, 4]
    assert a.counters.datagrams_sent == 15
    assert a.counters.dropped == {}


class OldSocket(socket.socket):
    """A socket of a kernel before 4.18, which cuts nothing."""

    def setsockopt(self, level, option, *value):
        if (level, option) == (SOL_UDP, UDP_SEGMENT):
            raise OSError(errno.ENOPROTOOPT, "Protocol not available")
        super().setsockopt(level, option, *value)


async def test_an_old_kernel_gets_packets_one_by_one(ports, monkeypatch):
    monkeypatch.setattr(socket, "socket", OldSocket)
    a, b = ports(), ports()
    batch = Batch(a, b)
    for n in range(3):
        batch.forward(packet(n, 30))
    a.udp.flush()
    assert batch.bursts == [1, 1, 1]
    await b.receiver.wait_for(3)


async def test_a_burst_that_finds_the_socket_full_says_so(ports, monkeypatch):
    """Every packet that did not go out is counted; who cannot be reached costs only himself."""
    a, b = ports(), ports()
    answers = [1, -errno.EPERM, 1, -errno.EAGAIN]
    real = a.udp._sendmmsg

    def sendmmsg(fileno, headers, count):
        answer = answers.pop(0)
        return real(fileno, headers, answer) if answer > 0 else answer

    monkeypatch.setattr(a.udp, "_sendmmsg", sendmmsg)
    nowhere = type("", (), {"sockaddr": sockaddr("127.0.0.1", 0)})
    batch = Batch(a, b, nowhere, b, b, b)
    batch.forward(packet(1, 30))
    batch.forward(packet(2, 30))
    a.udp.flush()
    assert batch.took == [False]
    await b.receiver.wait_for(4)
    assert [(got[0], got[1]) for got in b.receiver.got] == [(0, 1), (0, 2), (2, 1), (2, 2)]
    assert a.counters.dropped == {"unreachable": 2, "socket_full": 4}
    assert a.counters.datagrams_sent == 4


class FullSocket:
    """A socket whose kernel takes nothing more."""

    def __init__(self, real: socket.socket) -> None:
        self.real = real

    def sendto(self, data, address):
        raise BlockingIOError

    def __getattr__(self, name):
        return getattr(self.real, name)


@both_ways
async def test_what_a_full_socket_does_not_take_is_dropped(ports, batched):
    """And counted; nothing waits for it."""
    a, b = ports(batched=batched), ports(batched=batched)
    a.udp._socket = FullSocket(a.udp._socket)
    if batched:
        a.udp._sendmmsg = lambda *_: -errno.EAGAIN
    for _ in range(3):
        a.send(b"x", b.sockaddr)
    a.udp.flush()
    a.udp.send_now(b"x", b.sockaddr)
    assert a.counters.dropped == {"socket_full": 4}
    assert a.counters.datagrams_sent == 0


async def test_an_interrupted_call_is_made_again(ports):
    """A signal in between loses nothing."""
    a, b = ports(), ports()
    real, calls = a.udp._sendmmsg, []

    def interrupted_once(*arguments):
        calls.append(1)
        return -errno.EINTR if len(calls) == 1 else real(*arguments)

    a.udp._sendmmsg = interrupted_once
    a.send(b"x", b.sockaddr)
    a.udp.flush()
    await b.receiver.wait_for(1)
    assert a.counters.dropped == {}


@both_ways
async def test_a_port_that_is_taken_is_refused(ports, batched):
    """The error is the kernel's, and no socket is left open; the second socket shares with nobody."""
    taken = ports(batched=batched)
    with pytest.raises(OSError, match="in use"):
        UdpPort("127.0.0.1", taken.udp.port, MediaCounters(), lambda: 0.0)


# Feedback has a socket of its own

FEEDBACK = rtcp.transport_feedback(1, 2, bytes(8))
PADDED = bytes((FEEDBACK[0] | 0x20,)) + FEEDBACK[1:]


@pytest.mark.parametrize(
    ("bound", "host"),
    [
        ("127.0.0.1", "127.0.0.1"),
        pytest.param("::1", "::1", marks=needs_ipv6),
        pytest.param("::", "127.0.0.1", marks=needs_ipv6),
    ],
)
async def test_feedback_wakes_nobody(ports, bound, host):
    """It is read after the media, or at a tick; everything else is read at once."""
    a, b = ports(host), ports(bound)
    to = sockaddr(host, b.udp.port)
    others = [
        rtcp.nack(1, 2, [3]),
        rtcp.picture_loss(1, 2),
        rtcp.receiver_report(1) + FEEDBACK,
        bytes((0x8F, 96)) + bytes(20),
        b"",
        b"\x8f",
        b"stun",
    ]
    for data in (FEEDBACK, *others, PADDED):
        a.udp.send_now(data, to)
    # Behind all of them, so that the kernel has sorted them by then.
    b.udp._receive_batch(b.udp._fileno, BATCH)
    assert b.receiver.got == others
    b.udp.take_aside()
    assert b.receiver.got == [*others, FEEDBACK, PADDED]
    assert b.udp.address(b.receiver.senders[-1]) == (host, a.udp.port)
    assert b.counters.datagrams_received == len(others) + 2
    a.udp.send_now(FEEDBACK, to)
    a.udp.send_now(b"media", to)
    await b.receiver.wait_for(len(others) + 4)
    assert b.receiver.got[-2:] == [b"media", FEEDBACK]


async def test_a_crowd_of_feedback_is_taken_in_small_parts(ports):
    """Between two packets of media no more than so many; what stays comes with the next."""
    a, b = ports(), ports()
    for _ in range(ASIDE_MOST + 3):
        a.udp.send_now(FEEDBACK, b.sockaddr)
    a.udp.send_now(b"media", b.sockaddr)
    b.udp._readable()
    assert b.receiver.got == [b"media"] + [FEEDBACK] * ASIDE_MOST
    b.udp._readable()
    assert b.receiver.got == [b"media"] + [FEEDBACK] * (ASIDE_MOST + 3)
    # The clock stands still: the next look comes later.
    a.udp.send_now(FEEDBACK, b.sockaddr)
    b.udp._readable()
    assert len(b.receiver.got) == ASIDE_MOST + 4
    assert not b.udp.take_aside()
    assert len(b.receiver.got) == ASIDE_MOST + 5


async def test_a_tick_takes_feedback_in_parts_too(ports):
    """It is told whether there is more, so that media may have its turn before that."""
    a, b = ports(), ports()
    for _ in range(ASIDE_MOST + 3):
        a.udp.send_now(FEEDBACK, b.sockaddr)
    assert b.udp.take_aside()
    assert len(b.receiver.got) == ASIDE_MOST
    assert not b.udp.take_aside()
    assert len(b.receiver.got) == ASIDE_MOST + 3


async def test_an_old_kernel_brings_feedback_with_the_rest(ports, monkeypatch):
    """Where sockets cannot be chosen by a program, there is one, and it is nobody else's."""
    monkeypatch.setattr(udp, "_SO_ATTACH_REUSEPORT_CBPF", 9999)
    a, b = ports(), ports()
    assert b.udp._aside is None
    assert b.udp._socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 0
    a.udp.send_now(FEEDBACK, b.sockaddr)
    await b.receiver.wait_for(1)
    assert not b.udp.take_aside()
    assert b.receiver.got == [FEEDBACK]


async def test_nothing_is_read_after_closing(ports):
    """The reader is gone from the loop, the port is free, and closing twice is nothing."""
    port = ports()
    number = port.udp.port
    descriptor = port.udp._socket.fileno()
    port.udp.close()
    assert not asyncio.get_running_loop().remove_reader(descriptor)
    port.udp.close()
    again = UdpPort("127.0.0.1", number, MediaCounters(), lambda: 0.0)
    again.close()


def test_a_port_that_was_never_started_can_be_closed():
    """Without a loop."""
    UdpPort("127.0.0.1", 0, MediaCounters(), lambda: 0.0).close()
