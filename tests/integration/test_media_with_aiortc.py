"""The media plane against stock aiortc clients: what nobody here wrote."""

import asyncio
import gc
from collections import Counter
from contextlib import asynccontextmanager

import pytest
from aiortc import (
    RTCBundlePolicy,
    RTCConfiguration,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError
from aiortc.rtp import is_rtcp

from sfu import clock
from sfu.bot.patterns import CounterVideo, Tone, loudest_frequency, read_number
from sfu.counters import MediaCounters
from sfu.errors import BadRequest, NotFound, Unavailable
from sfu.media.dtls import Certificate
from sfu.media.peer_connection import PeerSettings
from sfu.media.plane import MediaPlane, OfferRequest
from sfu.media.ports import MediaPorts
from sfu.media.quality import score
from sfu.media.udp import UdpPort

CODECS = frozenset({"opus", "red", "vp8", "h264", "vp9", "av1"})


class Plane:
    """A media plane on loopback, with every event that it told."""

    def __init__(self, *, connect_timeout_s=10.0, expiry_s=30.0, max_peers=100, batched=True):
        self.counters = MediaCounters()
        udp = UdpPort("127.0.0.1", 0, self.counters, clock.now, batched=batched)
        self.ports = MediaPorts(udp, self.counters, clock.now)
        settings = PeerSettings(self.ports, Certificate.fresh(), connect_timeout_s, expiry_s)
        self.plane = MediaPlane(settings, CODECS, max_peers, self._event)
        self.events = []
        self._arrived = asyncio.Event()

    def _event(self, peer_id, type_, data):
        self.events.append((peer_id, type_, data))
        self._arrived.set()

    async def event(self, peer_id, type_, where=lambda data: True):
        """Wait for an event of a peer, which may have come already; it is taken out."""
        async with asyncio.timeout(15):
            while True:
                for entry in self.events:
                    if entry[:2] == (peer_id, type_) and where(entry[2]):
                        self.events.remove(entry)
                        return entry[2]
                self._arrived.clear()
                await self._arrived.wait()

    def connection(self, peer_id):
        return self.plane._peers[peer_id][1].connection


@asynccontextmanager
async def running_plane(**options):
    plane = Plane(**options)
    await plane.ports.start("127.0.0.1", 0, ["127.0.0.1"])
    await plane.plane.start()
    before = asyncio.all_tasks()
    try:
        yield plane
    finally:
        await plane.plane.close()
        await plane.ports.close()
        left = {t for t in asyncio.all_tasks() - before if "sfu" in repr(t.get_coro())}
        assert not left, f"tasks left behind: {left}"


@pytest.fixture
async def plane():
    async with running_plane() as running:
        yield running


class Peer:
    """A stock aiortc client that counts what it decodes."""

    def __init__(self, plane, name):
        self.plane, self.name = plane, name
        self.pc = RTCPeerConnection(RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
        self.frames = Counter()
        self.numbers = []
        self.audio = []
        self._arrived = asyncio.Event()
        self._tasks = []
        self.pc.on("track", lambda track: self._tasks.append(asyncio.create_task(self._receive(track))))

    async def _receive(self, track):
        try:
            while True:
                frame = await track.recv()
                self.frames[track.kind] += 1
                if track.kind == "video":
                    self.numbers.append(read_number(frame))
                else:
                    self.audio = [*self.audio[-49:], frame]
                self._arrived.set()
        except MediaStreamError:
            return

    async def offer(self, *tracks, audio_slots=0, video_slots=0, channel=False, **options):
        for track in tracks:
            self.pc.addTransceiver(track, "sendonly")
        for kind, count in (("audio", audio_slots), ("video", video_slots)):
            for _ in range(count):
                self.pc.addTransceiver(kind, "recvonly")
        opened = self.pc.createDataChannel("sfu") if channel else None
        await self.negotiate(**options)
        return opened

    async def negotiate(self, **options):
        await self.pc.setLocalDescription(await self.pc.createOffer())
        options.setdefault("room", "room")
        request = OfferRequest(user_id=self.name, name=self.name, sdp=self.pc.localDescription.sdp, **options)
        self.reply = await self.plane.plane.offer(self.name, request)
        await self.pc.setRemoteDescription(RTCSessionDescription(self.reply.sdp, "answer"))

    async def decoded(self, **counts):
        async with asyncio.timeout(20):
            while any(self.frames[kind] < count for kind, count in counts.items()):
                self._arrived.clear()
                await self._arrived.wait()

    async def close(self):
        await self.pc.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def peers(plane, *names):
    made = [Peer(plane, name) for name in names]
    try:
        yield made
    finally:
        for peer in made:
            await peer.close()


@pytest.mark.parametrize("batched", [True, False])
async def test_two_see_and_hear_each_other(batched):
    """Every frame that was sent is decoded once at the other end, in order, and the tone is the tone."""
    async with running_plane(batched=batched) as plane, peers(plane, "ada", "bob") as (ada, bob):
        await ada.offer(Tone(440), CounterVideo(), audio_slots=1, video_slots=1)
        await bob.offer(Tone(660), CounterVideo(), audio_slots=1, video_slots=1)
        await asyncio.gather(ada.decoded(video=60, audio=150), bob.decoded(video=60, audio=150))
        for peer, tone in ((ada, 660), (bob, 440)):
            assert peer.numbers == list(range(peer.numbers[0], peer.numbers[0] + len(peer.numbers)))
            assert abs(loudest_frequency(peer.audio) - tone) < 15
        assert plane.counters.packets_forwarded > 0
        assert set(plane.counters.dropped) <= {"stranger", "before_keys"}


async def test_who_comes_later_fills_a_slot_without_negotiation(plane):
    """A third and a fourth publisher appear in slots that were offered before they came."""
    async with peers(plane, "viewer", "one", "two", "three") as (viewer, *others):
        await viewer.offer(audio_slots=3, video_slots=3)
        answer = viewer.reply.sdp
        for other in others:
            await other.offer(Tone(440), CounterVideo())
        slots = await plane.event(
            "viewer", "media.slots", lambda data: all(slot["track_id"] for slot in data["slots"])
        )
        assert {slot["participant_id"] for slot in slots["slots"]} == {"one", "two", "three"}
        await viewer.decoded(video=90, audio=90)
        assert viewer.reply.sdp == answer
        by_participant = Counter(slot["participant_id"] for slot in slots["slots"])
        assert set(by_participant.values()) == {2}


async def test_the_tenth_participant_is_heard_without_negotiation(plane):
    """Nine voices fill nine slots that were offered when the room was empty; all arrive whole."""
    names = [f"voice{number}" for number in range(9)]
    async with peers(plane, "listener", *names) as (listener, *voices):
        await listener.offer(audio_slots=9)
        for voice in voices:
            await voice.offer(Tone(440))
        slots = await plane.event(
            "listener", "media.slots", lambda data: all(slot["track_id"] for slot in data["slots"])
        )
        assert {slot["participant_id"] for slot in slots["slots"]} == set(names)
        await listener.decoded(audio=9 * 50)
        assert len({s.direction for s in plane.connection("listener").sections}) == 1
        legs = plane.connection("listener").rtp.legs.values()
        assert all(leg.packets > 0 for leg in legs)
        assert plane.counters.dropped.get("socket_full", 0) == 0


async def test_who_speaks_is_told_and_who_falls_silent_too(plane):
    """By the level beside each packet: the listener, who sends nothing, is told of both."""
    async with peers(plane, "listener", "loud") as (listener, loud):
        await listener.offer(audio_slots=1)
        await loud.offer(Tone(440))
        heard = await plane.event("listener", "media.speakers", lambda data: data["speakers"])
        (speaker,) = heard["speakers"]
        assert speaker["participant_id"] == "loud"
        assert 0 < speaker["level"] <= 1
        (track_id,) = plane.plane._peers["loud"][1].tracks
        plane.plane.mute("loud", track_id, True)
        await plane.event("listener", "media.speakers", lambda data: not data["speakers"])


async def test_who_receives_is_told_how_well_it_arrives(plane):
    """Of himself slot by slot, those through which something flows; the others are told the sums only."""
    async with peers(plane, "viewer", "publisher", "other") as (viewer, publisher, other):
        await viewer.offer(audio_slots=2, video_slots=1)
        await other.offer(audio_slots=1)
        await publisher.offer(Tone(440), CounterVideo())

        def is_of_both(data):
            slots = data.get("slots", [])
            return len(slots) == 2 and data["rtt_ms"] is not None and all(x["bitrate_bps"] for x in slots)

        told = await plane.event("viewer", "media.quality", is_of_both)
        assert told["participant_id"] == "viewer"
        # What is told is rounded, so the score is that of one of the ends; a busy machine's is not 5.
        ends = [score(0.0, (told["rtt_ms"] + r) / 1000, (told["jitter_ms"] + r) / 1000) for r in (0.5, -0.5)]
        assert ends[0] <= told["score"] <= ends[1]
        assert told["jitter_ms"] == max(slot["jitter_ms"] for slot in told["slots"]) < 1000
        # Each is rounded by itself.
        assert abs(told["bitrate_bps"] - sum(slot["bitrate_bps"] for slot in told["slots"])) <= 2
        shown = {slot["mid"]: slot for slot in viewer.reply.slots}
        for slot in told["slots"]:
            assert (slot["layer"], slot["loss"], slot["limited"]) == (None, 0.0, False)
        assert sorted(shown[slot["mid"]]["kind"] for slot in told["slots"]) == ["audio", "video"]
        assert plane.plane.video_slots() == {"all": 1, "less": 0, "nothing": 0}
        others = await plane.event("other", "media.quality", lambda data: data["participant_id"] == "viewer")
        assert set(others) == {"participant_id", "score", "loss", "rtt_ms", "bitrate_bps"}


async def test_one_speaks_to_many_in_a_batch(plane):
    """Six listeners of one voice and one picture are sent to as rows of one array; nothing is missing."""
    names = [f"listener{number}" for number in range(6)]
    async with peers(plane, "speaker", *names) as (speaker, *listeners):
        for listener in listeners:
            await listener.offer(audio_slots=1, video_slots=1)
        await speaker.offer(Tone(440), CounterVideo())
        await asyncio.gather(*(listener.decoded(video=40, audio=100) for listener in listeners))
        for listener in listeners:
            first = listener.numbers[0]
            assert listener.numbers == list(range(first, first + len(listener.numbers)))
        fan_outs = [track.fan_out for track in plane.connection("speaker").rtp.tracks.values()]
        assert [fan_out.together for fan_out in fan_outs] == [6, 6]


async def test_audio_and_video_of_one_share_a_stream(plane):
    """Companion tracks stand in slots of one number, whose stream id is one: browsers sync their lips."""
    async with peers(plane, "viewer", "one", "two") as (viewer, one, two):
        await viewer.offer(audio_slots=2, video_slots=2)
        await one.offer(Tone(440), CounterVideo())
        await two.offer(Tone(440), CounterVideo())
        slots = await plane.event("viewer", "media.slots", lambda d: all(s["track_id"] for s in d["slots"]))
        legs = plane.connection("viewer").rtp.legs
        streams = {}
        for slot in slots["slots"]:
            streams.setdefault(slot["participant_id"], set()).add(legs[slot["mid"]].sending.stream_id)
        assert sorted(map(len, streams.values())) == [1, 1]


async def test_nothing_passes_before_a_peer_is_admitted(plane):
    """Who rings or is rung may connect, but is neither heard nor hearing until the call is active."""
    async with peers(plane, "ada", "bob") as (ada, bob):
        await ada.offer(Tone(440), CounterVideo(), audio_slots=1, video_slots=1, admitted=False)
        await bob.offer(Tone(660), CounterVideo(), audio_slots=1, video_slots=1, admitted=False)
        await plane.event("ada", "peer.connected")
        await plane.event("bob", "peer.connected")
        assert [p["participant_id"] for p in bob.reply.participants] == ["bob"]
        async with asyncio.timeout(10):
            while plane.counters.dropped.get("not_admitted", 0) < 20:
                await asyncio.sleep(0.02)
        assert plane.counters.packets_forwarded == 0
        assert plane.plane.admit("ada")
        assert plane.plane.admit("bob")
        assert not plane.plane.admit("bob")
        await asyncio.gather(ada.decoded(video=10, audio=10), bob.decoded(video=10, audio=10))


async def test_leaving_empties_the_slots_and_coming_back_fills_them(plane):
    """The slot's SSRC lives on: the next publisher is decoded by the same receiver."""
    async with peers(plane, "viewer", "one") as (viewer, one):
        await viewer.offer(audio_slots=1, video_slots=1)
        await one.offer(Tone(440), CounterVideo())
        await viewer.decoded(video=20)
        await one.close()
        await plane.event("viewer", "media.participant_left")
        await plane.event("viewer", "media.slots", lambda d: not any(s["track_id"] for s in d["slots"]))
        seen = viewer.frames["video"]
        async with peers(plane, "two") as (two,):
            await two.offer(Tone(440), CounterVideo())
            await viewer.decoded(video=seen + 30, audio=60)
        assert viewer.numbers[-20:] == list(range(viewer.numbers[-20], viewer.numbers[-20] + 20))


async def test_losses_on_the_way_to_a_receiver_are_repaired(plane):
    """One packet in ten never arrives; NACK brings each back, and no frame is missing."""
    async with peers(plane, "ada", "bob") as (ada, bob):
        await ada.offer(CounterVideo())
        await bob.offer(video_slots=1)
        await bob.decoded(video=5)
        transport = bob.pc.getTransceivers()[0].receiver.transport
        receive, count = transport._handle_rtp_data, Counter()

        async def lossy(data, arrival_time_ms):
            count["all"] += 1
            if count["all"] % 10 == 0:
                count["lost"] += 1
            else:
                await receive(data, arrival_time_ms=arrival_time_ms)

        transport._handle_rtp_data = lossy
        await bob.decoded(video=80)
        assert count["lost"] > 5
        assert plane.counters.packets_retransmitted >= count["lost"] - 3
        first = bob.numbers[0]
        assert bob.numbers == list(range(first, first + len(bob.numbers)))


async def test_losses_on_the_way_from_a_publisher_are_repaired(plane):
    """What the server misses it asks for, and forwards when it comes."""
    async with peers(plane, "ada", "bob") as (ada, bob):
        await ada.offer(CounterVideo())
        await bob.offer(video_slots=1)
        await bob.decoded(video=5)
        transport = ada.pc.getTransceivers()[0].sender.transport
        send, count = transport._send_rtp, Counter()

        async def lossy(data):
            count["all"] += not is_rtcp(data)
            if is_rtcp(data) or count["all"] % 10 != 0:
                await send(data)

        transport._send_rtp = lossy
        await bob.decoded(video=80)
        assert plane.counters.nacks_sent > 3
        assert plane.counters.packets_recovered > 3
        first = bob.numbers[0]
        assert bob.numbers == list(range(first, first + len(bob.numbers)))


async def test_tracks_come_and_go_with_negotiation(plane):
    """A second camera is published and unpublished by offers; the connection stays one."""
    async with peers(plane, "ada", "bob") as (ada, bob):
        await bob.offer(audio_slots=1, video_slots=2)
        await ada.offer(Tone(440), CounterVideo())
        await bob.decoded(video=10)
        second = ada.pc.addTransceiver(CounterVideo(), "sendonly")
        await ada.negotiate()
        published = await plane.event("bob", "media.track_published")
        await plane.event("bob", "media.slots", lambda d: all(s["track_id"] for s in d["slots"]))
        second.direction = "inactive"
        await ada.negotiate()
        gone = await plane.event("bob", "media.track_unpublished")
        assert gone["track_id"] == published["track"]["track_id"]
        seen = bob.frames["video"]
        await bob.decoded(video=seen + 20)
        assert plane.connection("ada").connectionState == "connected"


async def test_data_channel_messages_reach_the_others(plane):
    """`data.send` on the channel labelled sfu arrives on the others' channels, and not on one's own."""
    async with peers(plane, "ada", "bob") as (ada, bob):
        here = await ada.offer(Tone(440), channel=True)
        there = await bob.offer(Tone(660), channel=True)
        got, opened = asyncio.Queue(), [asyncio.Event(), asyncio.Event()]
        there.on("message", got.put_nowait)
        for channel, event in ((here, opened[0]), (there, opened[1])):
            channel.on("open", event.set)
            if channel.readyState == "open":
                event.set()
        async with asyncio.timeout(10):
            await asyncio.gather(*(event.wait() for event in opened))
            here.send('{"type": "data.send", "data": {"topic": "chat", "payload": {"text": "hi"}}}')
            here.send("rubbish that is passed over")
            message = await got.get()
        assert '"chat"' in message and '"hi"' in message and '"ada"' in message


async def test_a_voice_call_answers_video_inactive(plane):
    async with peers(plane, "ada") as (ada,):
        await ada.offer(Tone(440), CounterVideo(), video=False)
        assert [s.direction for s in plane.connection("ada").sections] == ["recvonly", "inactive"]
        await plane.event("ada", "peer.connected")


async def test_rubbish_is_refused_and_leaves_the_peer_as_it_was(plane):
    async with peers(plane, "ada", "bob") as (ada, bob):
        await ada.offer(Tone(440), audio_slots=1)
        await bob.offer(Tone(660), audio_slots=1)
        await bob.decoded(audio=10)
        for rubbish in ("", "v=0", "rubbish", "v=0\r\nm=audio 9 X 0\r\n", ada.pc.localDescription.sdp[:500]):
            with pytest.raises(BadRequest) as refused:
                await plane.plane.offer("ada", OfferRequest("room", "ada", "ada", rubbish))
            assert refused.value.code in ("bad_sdp", "fingerprint_changed")
        seen = bob.frames["audio"]
        await bob.decoded(audio=seen + 20)


async def test_an_offer_of_another_connection_is_told_apart(plane):
    async with peers(plane, "ada") as (ada,):
        await ada.offer(Tone(440))
        other = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        other.addTransceiver("audio", "recvonly")
        await other.setLocalDescription(await other.createOffer())
        with pytest.raises(BadRequest) as refused:
            request = OfferRequest("room", "ada", "ada", other.localDescription.sdp)
            await plane.plane.offer("ada", request)
        assert refused.value.code == "fingerprint_changed"
        await other.close()


@asynccontextmanager
async def being_answered(plane, turns, **options):
    """Ada's first offer, so many turns of the loop after it came: an answer is made in steps."""
    async with peers(plane, "ada") as (ada,):
        answered = asyncio.create_task(ada.offer(Tone(440), audio_slots=1, **options))
        while "ada" not in plane.plane._joining:  # its client gathers candidates
            await asyncio.sleep(0)
        for _ in range(turns):
            await asyncio.sleep(0)
        assert not answered.done()
        yield ada, answered


@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_who_leaves_while_he_is_answered_is_not_there(plane, turns):
    """Nor does anything of him stay behind."""
    async with being_answered(plane, turns) as (_, answered):
        plane.plane.remove("ada", "left")
        with pytest.raises(NotFound):
            await answered
    assert (plane.plane.peers, plane.plane.rooms, plane.plane._joining) == (0, {}, {})
    assert plane.ports._by_ufrag == {}


@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_who_is_admitted_while_he_is_answered_is_in(plane, turns):
    async with being_answered(plane, turns, admitted=False) as (_, answered):
        assert not plane.plane.admit("ada")  # the answer will tell
        await answered
        assert plane.plane.state("ada")["participants"][0]["participant_id"] == "ada"
        assert not plane.plane.admit("ada")


async def test_a_second_offer_before_the_first_is_answered_is_refused(plane):
    """The first is answered all the same."""
    async with being_answered(plane, 1) as (ada, answered):
        with pytest.raises(BadRequest) as refused:
            await plane.plane.offer("ada", OfferRequest("room", "ada", "ada", ada.pc.localDescription.sdp))
        assert refused.value.code == "offer_in_progress"
        await answered
    assert plane.plane._joining == {}


async def test_an_answer_that_nobody_waits_for_leaves_nothing(plane):
    async with being_answered(plane, 2) as (_, answered):
        answered.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answered
    assert (plane.plane.peers, plane.plane._joining, plane.ports._by_ufrag) == (0, {}, {})


async def test_there_is_a_limit_of_peers():
    async with running_plane(max_peers=1) as plane, peers(plane, "ada", "bob") as (ada, bob):
        await ada.offer(Tone(440))
        with pytest.raises(Unavailable):
            await bob.offer(Tone(440))
        assert plane.plane.peers == 1


async def test_a_peer_that_never_connects_is_closed_and_leaves_nothing():
    async with running_plane(connect_timeout_s=0.2) as plane:
        pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        pc.addTransceiver("audio", "recvonly")
        await pc.setLocalDescription(await pc.createOffer())
        await plane.plane.offer("ada", OfferRequest("room", "ada", "ada", pc.localDescription.sdp))
        connection = plane.connection("ada")
        closed = await plane.event("ada", "peer.closed")
        assert closed["reason"] == "failed"
        assert plane.plane.peers == 0 and not plane.plane.rooms
        await asyncio.wait(plane.plane._closing, timeout=5) if plane.plane._closing else None
        assert not plane.ports.is_known(connection.endpoint)
        await pc.close()


async def test_a_closed_peer_leaves_nothing_behind(plane):
    """No ufrag, address, task, leg or listener points to it."""
    async with peers(plane, "ada", "bob") as (ada, bob):
        await ada.offer(Tone(440), CounterVideo(), audio_slots=1, video_slots=1, channel=True)
        await bob.offer(Tone(660), CounterVideo(), audio_slots=1, video_slots=1)
        await ada.decoded(video=5)
        connection = plane.connection("bob")
        tracks = list(plane.connection("ada").rtp.tracks.values())
        plane.plane.remove("bob", "left")
        await plane.event("bob", "peer.closed")
        await asyncio.wait(plane.plane._closing, timeout=5)
        assert connection.connectionState == "closed"
        assert not plane.ports.is_known(connection.endpoint)
        assert not any(track.fan_out.legs for track in tracks)
        assert connection._dtls._task is None
        plane.events.clear()
        plane.plane.remove("bob", "left")
        assert plane.events == []  # the second time does nothing


# What there is of a peer: packets, keys, a connection of OpenSSL, and what knows whom.
OF_A_PEER = {
    *("PeerConnection", "PeerEndpoint", "IceLite", "UdpPath", "DtlsTransport", "SrtpContext"),
    *("RtpSession", "Track", "Layer", "History", "RtpPacket", "ArrivalRecorder"),
    *("Subscriptions", "Leg", "BandwidthEstimator", "Prober", "Section", "Sending"),
}


def of_a_peer() -> Counter:
    """Return how many there are of each, whether anybody knows them or not."""
    kinds = (type(each) for each in gc.get_objects())
    return Counter(kind.__name__ for kind in kinds if str(kind.__module__).startswith("sfu.media"))


async def test_the_memory_of_who_has_gone_comes_back_without_the_garbage_collector(plane):
    """It looks at everything once in hours, because everybody waits while it does."""
    gc.collect()
    gc.disable()
    try:
        before = of_a_peer()
        async with peers(plane, "ada", "bob", "eve") as (ada, bob, eve):
            await ada.offer(Tone(440), CounterVideo(), audio_slots=2, video_slots=2, channel=True)
            await bob.offer(Tone(660), CounterVideo(), audio_slots=2, video_slots=2)
            await eve.offer(audio_slots=2, video_slots=2)
            await asyncio.gather(*(peer.decoded(video=20, audio=20) for peer in (ada, bob, eve)))
            assert (of_a_peer() - before).keys() >= OF_A_PEER
            for name in ("ada", "bob", "eve"):
                plane.plane.remove(name, "left")
            await asyncio.wait(plane.plane._closing, timeout=5)
        left = of_a_peer() - before
        assert {name: left[name] for name in OF_A_PEER if left[name]} == {}
    finally:
        gc.enable()


async def test_a_silent_peer_is_interrupted_and_then_expires(plane):
    """Silence is told early and acted upon late; time is an argument."""
    async with peers(plane, "ada") as (ada,):
        await ada.offer(Tone(440))
        await plane.event("ada", "peer.connected")
        connection, now = plane.connection("ada"), clock.now()
        connection.check_liveness(now + 10)
        assert connection.iceConnectionState == "disconnected"
        connection.check_liveness(now)
        assert connection.iceConnectionState == "completed"
        connection.check_liveness(now + 31)
        await plane.event("ada", "peer.closed")
