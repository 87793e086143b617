"""What one peer receives: its legs, what its link takes, and which layer each leg gets.

Feedback goes in at the top (`receive_feedback`, reports, NACKs), becomes an estimate, then
an allocation, then a wish of each leg; a probe asks the link for more when that would help.
"""

import math
from collections.abc import Callable

from sfu.media import rtcp
from sfu.media.allocation import ALL, Extent, Preference, Wish, allocate
from sfu.media.bandwidth import QUEUE_HIGH_S, QUEUE_LOW_S, BandwidthEstimator
from sfu.media.leg import Leg, Waiting
from sfu.media.negotiation import TRANSPORT_CC_URI, Section, Sending
from sfu.media.number_bank import SENT_KEPT
from sfu.media.outlet import SubscriberOutlet
from sfu.media.pacing import PACE, Pacer
from sfu.media.packet import sequence_delta
from sfu.media.probing import Prober
from sfu.media.quality import Quality, score
from sfu.media.transport_cc import ArrivalClock, parse_feedback

# While a probe runs, or the estimate moves, somebody looks this often.
_PROBE_TICK_S = 0.02

# An estimate that moved by less changes no layer. A link that was found full is left alone for so long.
_NOTABLE, _CALM_S = 0.03, 2.0

# So many seconds without any feedback, and nobody will send it.
_SILENT_REPORTS = 4

# From this loss on a receiver is asked to play later, so that a repeat, and a repeat of the repeat, are in
# time: two round trips and what jitter needs. It is asked to play at once again after a while without.
_LOSS_BORNE, _LOSS_FORGOTTEN_S = 0.01, 15.0
_DELAY_S, _MAX_DELAY_S = 0.1, 0.5

# On a calm link feedback is looked at so often; one that was full lately is watched closely for longer.
# Something that is missing ends the calm for a while: the link may have become narrow.
_CALM_FEEDBACK_S, _WATCHED_S, _ALARMED_S = 0.3, 20.0, 2.0

# The first reports bring lips and voice together; later ones follow the drift of clocks.
_EARLY_REPORTS, _REPORT_S = 5, 2.5

# A track is paused where its link was found full although nothing but the lowest layers had been sent for so
# long: an estimate alone may be of the layer before, or of a keyframe.
_LEAST_TRIED_S = 1.0

# Where nothing fits nothing flows, and nothing is learned of the link: the first layer is tried again after
# so long, and each time after twice as long.
_DARK_S, _MAX_DARK_S = 4.0, 32.0

# Behind a longer queue nothing is sent again: it would come too late. But what a layer began with so long
# ago is: without it nothing is seen.
_NO_REPEATS_QUEUE_S, _BEGINNING_S = 0.2, 2.0

# A link that is full of a layer that it cannot carry is left alone for this share of its queue, and so long
# at most: the keyframe of the next layer would be lost where there is no room, and comes no earlier.
_DRAIN_SHARE, _MAX_DRAIN_S = 0.8, 0.3

# Feedback packets in a second that are looked at; libwebrtc sends at most twenty, and a few more
# where one does not hold all.
MAX_FEEDBACK_PER_S = 100


def _sleep_on(_at: float) -> None:
    """Wake nobody."""


class Subscriptions:
    """The receiving half of a peer, as its server end sends it."""

    def __init__(self, outlet: SubscriberOutlet, wake: Callable[[float], None]) -> None:
        # `wake` is told when handle_timer has something to do.
        self._outlet, self._wake = outlet, wake
        # By mid.
        self.legs: dict[str, Leg] = {}
        # What the receiver said of each slot, by mid; absent: nothing.
        self._preferences: dict[str, Preference] = {}
        # By our SSRC, primary or rtx.
        self._by_ssrc: dict[int, Leg] = {}
        self.bandwidth = BandwidthEstimator()
        # Whether the receiver sends transport-wide feedback; until then its link has no limit.
        self._has_feedback = False
        # Reports in which something was sent and no feedback came, ever.
        self._silent_reports = 0
        # When a report last told of loss.
        self._lossy_at = float("-inf")
        # What the receiver states itself (REMB); used where there is no feedback.
        self.remb_bps: int | None = None
        self._prober = Prober()
        # Bytes by which a probe sent more than it should have: packets are whole.
        self._padded_ahead = 0
        # What is more than a narrow link takes at once.
        self._pacer: Pacer[Waiting] = Pacer(wake)
        self._next_number: int | None = None
        self._arrival_clock = ArrivalClock()
        self._feedback_budget, self._feedback_at = float(MAX_FEEDBACK_PER_S), 0.0
        self._decided_bps = 0.0
        # Until when no feedback is passed over, because something was missing.
        self._alarmed_until = float("-inf")
        # Feedback that comes before this is not needed: what was found when one was looked at last.
        self.pass_over_until = 0.0
        # What the next better allocation would take.
        self._wanted_bps = 0.0
        self._is_stale = False
        # What was repeated once, on a lossy link, and goes out a second time.
        self._second_repeats: list[tuple[Leg, list[int]]] = []
        # Until when a full link is left alone.
        self._draining_until = float("-inf")
        # Since when nothing but the lowest layers is sent; infinite while something better is.
        self._least_since = float("inf")
        # Whether what is sent is more than the link takes.
        self._is_overdrawn = False
        # When a link on which nothing fits is tried again, and after how long.
        self._dark_until, self._dark_s = float("inf"), _DARK_S
        # When sender reports go out next, and how many did.
        self._report_at, self._reports = 0.0, 0

    # Legs

    def begin(self, section: Section, sending: Sending) -> None:
        """Begin a slot, or take over what was agreed for it again."""
        leg = self.legs.get(section.mid)
        if leg is None:
            leg = Leg(section, sending, self._outlet, None, self.changed, self._pacer)
            self.legs[section.mid] = leg
            self._by_ssrc[sending.ssrc] = self._by_ssrc[sending.rtx_ssrc] = leg
        else:
            leg.negotiate(section)
        # Until it stays away, feedback that was agreed is counted on.
        if section.extension_id(TRANSPORT_CC_URI) and section.codecs[0].has_feedback("transport-cc"):
            self._has_feedback = self._has_feedback or self._silent_reports < _SILENT_REPORTS

    def end_all_but(self, mids: set[str]) -> None:
        """End the slots that are no longer there."""
        for mid in [mid for mid in self.legs if mid not in mids]:
            leg = self.legs.pop(mid)
            leg.detach()
            for ssrc in [ssrc for ssrc, other in self._by_ssrc.items() if other is leg]:
                del self._by_ssrc[ssrc]

    def lanes_changed(self) -> None:
        """Let the fan-outs know that packets to this peer go another way now."""
        for leg in self.legs.values():
            if leg.track is not None:
                leg.track.fan_out.changed(leg)

    def close(self) -> None:
        """Detach every leg, so that no fan-out knows this peer any more."""
        for leg in self.legs.values():
            leg.detach()
        self._by_ssrc.clear()

    def release(self, outlet: SubscriberOutlet) -> None:
        """Let go of the legs, and of the peer: nobody asks for them any more, and `outlet` sends nothing."""
        self._outlet, self._wake, self._pacer = outlet, _sleep_on, Pacer(_sleep_on)
        self.legs.clear()
        self._second_repeats.clear()

    # Which layers

    def prefer(self, mid: str, preference: Preference | None) -> None:
        """Take what the receiver needs of what stands in a slot now."""
        self._preferences.pop(mid, None)
        if preference is not None:
            self._preferences[mid] = preference
        self.changed()

    def changed(self) -> None:
        """Choose layers anew at the next tick: tracks, layers or wishes are not what they were."""
        self._is_stale = True
        self._wake(0.0)

    def settle(self, now: float) -> None:
        """Choose layers at once, if something has changed."""
        if self._is_stale:
            self.allocate(now)

    @property
    def limit_bps(self) -> float:
        """What the receiver's link takes of video beside the audio; infinite if nobody knows.

        Only video is numbered, so feedback tells what is left of the link for it.
        """
        if self._has_feedback:
            return self.bandwidth.estimate_bps
        return float(self.remb_bps) if self.remb_bps is not None else float("inf")

    def allocate(self, now: float) -> None:
        """Choose the layer of every video leg."""
        self._is_stale = now < self._draining_until
        if self._is_stale:
            self._wake(self._draining_until)
            return
        self._decided_bps, self.pass_over_until = self.limit_bps, 0.0
        for leg in self.legs.values():
            leg.max_fps = (self._preferences.get(leg.mid) or _NO_PREFERENCE).max_fps
        wishes = [self._wish(leg, now) for leg in self.legs.values() if leg.kind == "video" and leg.track]
        if not wishes:
            self._wanted_bps, self._least_since = 0.0, float("inf")
            return
        # A link that takes the lowest layers, as far as anybody knows, gets something of everything.
        may_pause = self._has_feedback and self.bandwidth.congested_at > self._least_since + _LEAST_TRIED_S
        choice = allocate(self._decided_bps, wishes, may_pause=may_pause)
        is_least = all(choice.gives_least(wish) for wish in wishes if wish.layers)
        self._least_since = min(self._least_since, now) if is_least else float("inf")
        self._is_overdrawn = choice.used_bps > self._decided_bps
        is_full = self._has_feedback and self.bandwidth.queue_s > QUEUE_HIGH_S
        for mid, rid in choice.layers.items():
            leg = self.legs[mid]
            shown, extent = leg.layer, choice.extents.get(mid, ALL)
            is_too_much = is_full and shown is not None and shown.nominal_bps > self._decided_bps
            if is_too_much and shown is not None and (rid, extent.spatial) != (shown.rid, shown.spatial):
                leg.stop()
                self._drain(now)
            else:
                leg.allot(rid, now, is_limited=mid in choice.limited, extent=extent)
        self._wanted_bps = choice.next_bps if choice.next_bps > choice.used_bps else 0.0

    def _drain(self, now: float) -> None:
        """Choose again when there is room on a link that was full."""
        self._draining_until = now + min(_MAX_DRAIN_S, _DRAIN_SHARE * self.bandwidth.queue_s)
        self._is_stale = True
        self._wake(self._draining_until)

    def _wish(self, leg: Leg, now: float) -> Wish:
        assert leg.track is not None
        preference = self._preferences.get(leg.mid) or _NO_PREFERENCE
        return Wish(
            leg.mid,
            leg.track.options(now),
            extent=Extent(leg.extent.temporal, leg.layer.spatial if leg.layer is not None else None),
            shown=leg.layer.rid if leg.layer is not None else None,
            priority=preference.priority,
            pinned=preference.pinned,
            max_width=preference.max_width,
            max_height=preference.max_height,
        )

    # What the receiver sends

    def leg_of(self, ssrc: int) -> Leg | None:
        """Return the leg that sends under an SSRC of ours."""
        return self._by_ssrc.get(ssrc)

    def receive_nack(self, packet: rtcp.Nack, now: float) -> None:
        """Send again what is missing."""
        leg = self._by_ssrc.get(packet.media_ssrc)
        if leg is None or leg.sending.ssrc != packet.media_ssrc:
            return
        self._alarmed_until, self.pass_over_until = now + _ALARMED_S, 0.0
        if self.bandwidth.queue_s > _NO_REPEATS_QUEUE_S and now - leg.taken_up_at > _BEGINNING_S:
            # What is missing waits in the queue, or fell out of it; more would make it longer.
            self._outlet.counters.drop("repeat_into_queue", len(packet.lost))
        else:
            repeated = leg.repeat(packet.lost, now)
            # Where loss is usual a repeat is lost as well, and a third would come too late. The second
            # goes at the next tick, because losses come in bursts.
            is_lossy = bool(leg.playout_delay_s) and self.bandwidth.queue_s <= QUEUE_LOW_S
            if repeated and is_lossy and leg.has_rtx:
                self._second_repeats.append((leg, repeated))
                self._wake(now)

    def receive_keyframe_request(self, packet: rtcp.KeyframeRequest, now: float) -> None:
        """Pass a PLI or FIR on."""
        leg = self._by_ssrc.get(packet.media_ssrc)
        if leg is not None:
            leg.keyframe_wanted(now)

    def receive_report(self, report: rtcp.Report, now: float) -> Leg | None:
        """Take a report block; return the leg of which it tells."""
        leg = self._by_ssrc.get(report.ssrc)
        if leg is None or leg.sending.ssrc != report.ssrc:
            return None
        leg.receive_report(report, now)
        if leg.kind == "video":
            self._bear_loss(leg, now)
        return leg

    def _bear_loss(self, leg: Leg, now: float) -> None:
        """Let a receiver on a lossy link wait long enough for repeats to be of use."""
        if leg.loss >= _LOSS_BORNE:
            self._lossy_at = now
            trip = leg.round_trip_s or self.bandwidth.round_trip_s or 0.1
            delay = min(_MAX_DELAY_S, _DELAY_S + 2 * trip)
            if not leg.playout_delay_s or delay > leg.playout_delay_s * 1.5:
                leg.delay_playout(delay)
        elif leg.playout_delay_s is not None and now - self._lossy_at > _LOSS_FORGOTTEN_S:
            # Asked for nothing it would keep what it was asked for: first it is told to wait no more.
            is_told = not leg.playout_delay_s and now - self._lossy_at > 2 * _LOSS_FORGOTTEN_S
            if is_told or leg.playout_delay_s:
                leg.delay_playout(None if is_told else 0.0)

    def receive_remb(self, packet: rtcp.Remb) -> None:
        """Take what the receiver believes its link can take."""
        self.remb_bps = packet.bitrate_bps
        if not self._has_feedback:
            self.changed()

    def needs_feedback(self, now: float) -> bool:
        """Tell whether feedback that comes now is to be looked at.

        On a link on which nothing waits and nothing is lost, and of which nobody wants more, every
        few is enough: they are most of what a large audience sends.
        """
        return (
            now - self._feedback_at >= _CALM_FEEDBACK_S
            or now < self._alarmed_until
            or self._prober.is_running
            or self._wanted_bps > self.bandwidth.estimate_bps
            or now - self.bandwidth.congested_at < _WATCHED_S
            or self.bandwidth.queue_s > QUEUE_LOW_S
            or self.bandwidth.loss > 0
        )

    def receive_feedback(self, body: bytes, now: float) -> None:
        """Take a transport-wide feedback; one that is broken or too much is counted and gone."""
        self._feedback_budget += (now - self._feedback_at) * MAX_FEEDBACK_PER_S
        self._feedback_budget = min(self._feedback_budget, MAX_FEEDBACK_PER_S)
        self._feedback_at = now
        if self._feedback_budget < 1:
            self._outlet.counters.drop("feedback_flood")
            return
        self._feedback_budget -= 1
        try:
            first, arrived = parse_feedback(body)
        except ValueError:
            self._outlet.counters.drop("malformed_rtcp")
            return
        if self._next_number is not None:
            told = sequence_delta(self._next_number, first)
            if 0 < told <= len(arrived):  # told of before: each packet counts once
                first, arrived = self._next_number, arrived[told:]
            elif -SENT_KEPT < told < 0:  # feedback between was passed over
                self.bandwidth.pass_over(self._outlet.recall_bytes(self._next_number, -told))
        if not arrived:
            return
        self._next_number = (first + len(arrived)) & 0xFFFF
        sent, sizes = self._outlet.recall(first, len(arrived), now)
        if not all(sizes):
            known = [index for index, size in enumerate(sizes) if size]
            sent, sizes = [sent[i] for i in known], [sizes[i] for i in known]
            arrived = [arrived[i] for i in known]
        self._has_feedback, self._silent_reports = True, -1
        self.bandwidth.receive(sent, sizes, self._arrival_clock.unwrap(arrived), now)
        self._follow(now)
        self.pass_over_until = 0.0 if self.needs_feedback(now) else now + _CALM_FEEDBACK_S

    def _follow(self, now: float) -> None:
        """Act on a new estimate: end or begin a probe, choose layers."""
        bandwidth, prober = self.bandwidth, self._prober
        if prober.is_running and prober.judge(bandwidth.estimate_bps, is_clear=bandwidth.is_clear, now=now):
            bandwidth.end_probe()
        if now - bandwidth.congested_at < _CALM_S:
            prober.put_off(now)
        # More is of use only where something is missing. What was decided without a limit is infinite.
        bps, decided = bandwidth.estimate_bps, self._decided_bps
        is_of_use = bps < decided or self._wanted_bps > 0 or self._is_overdrawn
        is_notable = is_of_use and not math.isclose(bps, decided, rel_tol=_NOTABLE)
        if is_notable or (self._is_overdrawn and bandwidth.congested_at == now):
            self.allocate(now)
        if (
            self._wanted_bps > bandwidth.estimate_bps
            and bandwidth.is_clear
            and prober.begin(self._wanted_bps, bandwidth.estimate_bps, now)
        ):
            bandwidth.begin_probe(now)
            self._padded_ahead = 0
            self._wake(now + _PROBE_TICK_S)
        self._pace(now)

    def _pace(self, now: float) -> None:
        """Spread what goes out over time, where the link was found full lately: elsewhere nothing waits."""
        pacer, was_on = self._pacer, self._pacer.is_on
        if self._has_feedback and now - self.bandwidth.congested_at < _WATCHED_S:
            wanted = max(self.bandwidth.estimate_bps, self._media_bps, self._prober.target_bps)
            pacer.rate_bps = PACE * wanted
        else:
            pacer.rate_bps = 0.0
        if pacer.is_on != was_on:
            self._send_waiting(pacer.take_all(), now)
            self.lanes_changed()

    def _send_waiting(self, waiting: list[Waiting], now: float) -> None:
        for leg, layer, packet in waiting:
            leg.send_waiting(layer, packet, now)

    # What goes out by itself

    def handle_timer(self, now: float) -> None:
        """Do what is due: a new choice of layers, the padding of a probe."""
        second, self._second_repeats = self._second_repeats, []
        for leg, sequences in second:
            leg.repeat(sequences, now, is_second=True)
        if self._is_stale:
            self.allocate(now)
        if self._pacer.is_waiting:
            self._send_waiting(self._pacer.due(now), now)
            if self._pacer.is_waiting:
                self._wake(now + _PROBE_TICK_S)
        prober = self._prober
        if prober.is_running:
            self._pad(prober.padding(self._media_bps, now), now)
            if prober.judge(self.bandwidth.estimate_bps, is_clear=self.bandwidth.is_clear, now=now):
                self.bandwidth.end_probe()
            else:
                self._wake(now + _PROBE_TICK_S)

    @property
    def _media_bps(self) -> float:
        """What the shown layers cost."""
        shown = (leg.layer for leg in self.legs.values() if leg.kind == "video" and leg.layer is not None)
        return sum(layer.bitrate_bps for layer in shown)

    def _pad(self, size: int, now: float) -> None:
        """Send so many bytes of repeats, on any leg that has some; what is too much counts the next time."""
        size -= self._padded_ahead
        for leg in self.legs.values():
            if size > 0 and leg.kind == "video" and leg.layer is not None:
                size -= leg.pad(size, now)
        self._padded_ahead = max(0, -size)

    def report(self, now: float) -> None:
        """Send sender reports, and look at the layers; called once a second."""
        is_due, compound = now >= self._report_at, b""
        for leg in self.legs.values():
            leg.measure(now)
            report = leg.sender_report(now) if is_due else b""
            if len(compound) + len(report) > rtcp.MAX_COMPOUND:
                self._outlet.send_rtcp(compound)
                compound = b""
            compound += report
        if compound:
            self._outlet.send_rtcp(compound)
            self._reports += 1
            self._report_at = now + (_REPORT_S if self._reports > _EARLY_REPORTS else 0.0)
        if 0 <= self._silent_reports < _SILENT_REPORTS and self._media_bps > 0:
            self._silent_reports += 1
            self._has_feedback = self._has_feedback and self._silent_reports < _SILENT_REPORTS
        if not self._is_settled:
            self.allocate(now)
        self._try_again(now)
        if self._pacer.is_on:
            self._pace(now)

    def _try_again(self, now: float) -> None:
        """Let the first layer flow again on a link on which nothing fitted for a while."""
        if any(leg.layer or leg.target for leg in self.legs.values() if leg.kind == "video"):
            self._dark_until = float("inf")
            if now - self.bandwidth.congested_at > _WATCHED_S:
                self._dark_s = _DARK_S
        elif not (self._has_feedback and self._wanted_bps):
            self._dark_until = float("inf")
        elif self._dark_until == float("inf"):
            self._dark_until = now + self._dark_s
        elif now >= self._dark_until:
            self._dark_until, self._dark_s = float("inf"), min(2 * self._dark_s, _MAX_DARK_S)
            self.bandwidth.begin_again(self._wanted_bps)
            self.allocate(now)

    @property
    def _is_settled(self) -> bool:
        """Whether there is nothing to choose: one layer a track, and all of them shown with every frame."""
        legs = (leg for leg in self.legs.values() if leg.kind == "video" and leg.track is not None)
        is_known = not self._has_feedback or math.isfinite(self._decided_bps)
        return (
            is_known
            and not (self._is_stale or self._wanted_bps)
            and all(
                leg.track is not None
                and len(leg.track.layers) == 1
                and leg.layer is not None
                and leg.layer.thinning is None
                and leg.layer.spatial is None
                and leg.max_fps is None
                for leg in legs
            )
        )

    def quality(self) -> Quality | None:
        """Return how well this peer receives; None if it receives nothing."""
        legs = [leg for leg in self.legs.values() if leg.layer is not None]
        if not legs:
            return None
        trips = [leg.round_trip_s for leg in legs if leg.round_trip_s is not None]
        round_trip_s = min(trips) if trips else self.bandwidth.round_trip_s
        loss = max(leg.loss for leg in legs)
        limited = any(leg.is_limited for leg in legs)
        jitter_s = max(leg.jitter / leg.clock_rate for leg in legs)
        return Quality(
            score=score(loss, round_trip_s, jitter_s, limited=limited),
            loss=loss,
            round_trip_s=round_trip_s,
            jitter_s=jitter_s,
            bitrate_bps=sum(leg.bitrate_bps for leg in legs),
            estimate_bps=self.bandwidth.estimate_bps if self._has_feedback else None,
        )


_NO_PREFERENCE = Preference()
