"""What the packet path counts: plain integers, added to for every packet."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class MediaCounters:
    """What the media plane has done since the start; only ever grows."""

    datagrams_received: int = 0
    datagrams_sent: int = 0
    packets_received: int = 0
    packets_forwarded: int = 0
    bytes_received: int = 0
    bytes_forwarded: int = 0
    packets_retransmitted: int = 0
    packets_recovered: int = 0
    # Repeats sent to learn what a link takes.
    packets_padded: int = 0
    nacks_sent: int = 0
    nacks_received: int = 0
    # Feedback on links that nothing ails, of which every few is enough.
    feedback_skipped: int = 0
    keyframe_requests_sent: int = 0
    keyframe_requests_received: int = 0
    # Packets dropped, by reason; the reasons are words of the code that drops.
    dropped: dict[str, int] = field(default_factory=dict)

    def drop(self, reason: str, count: int = 1) -> None:
        """Count packets that went nowhere, with the reason."""
        self.dropped[reason] = self.dropped.get(reason, 0) + count
