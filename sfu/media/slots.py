"""Which remote track stands in which slot of a receiver.

A slot is a recvonly m-line that the client offered ahead of need. Tracks fill free slots
without any renegotiation; a track keeps its slot for as long as both live, so that nobody
jumps about on the screen.
"""

from collections.abc import Iterable
from dataclasses import dataclass

# Sources that belong together go to slots of the same number, which share a stream id:
# browsers keep lips and voice in step within one stream only.
_COMPANIONS = {"microphone": "voice", "camera": "voice", "screen": "screen", "screen_audio": "screen"}


@dataclass(frozen=True, slots=True)
class Slot:
    """One place for a track; `number` counts the slots of one kind."""

    mid: str
    kind: str
    number: int
    # A track that must stand here while it exists.
    pinned_track_id: str | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """One track that could be shown, with what decides who comes first."""

    track_id: str
    participant_id: str
    kind: str
    source: str
    priority: int = 0
    # Its participant's last turn to speak; a larger number is later, 0 never.
    turn: int = 0


def assign(slots: Iterable[Slot], candidates: Iterable[Candidate], bound: dict[str, str]) -> dict[str, str]:
    """Return mid → track id for every filled slot.

    `bound` is the assignment before; what still holds of it is kept. When there are more
    tracks than slots, the higher priority stays, then screens, then who spoke last, then who has
    a slot already, then who was there first.
    """
    slots = list(slots)
    here = set(bound.values())
    ordered = sorted(
        candidates, key=lambda c: (-c.priority, c.source != "screen", -c.turn, c.track_id not in here)
    )
    result: dict[str, str] = {}
    for kind in ("audio", "video"):
        of_kind = [slot for slot in slots if slot.kind == kind]
        wanted = [candidate for candidate in ordered if candidate.kind == kind][: len(of_kind)]
        names = {candidate.track_id for candidate in wanted}
        names |= {s.pinned_track_id for s in of_kind if s.pinned_track_id} & {
            c.track_id for c in ordered if c.kind == kind
        }
        result.update(_pin(of_kind, names))
        taken = set(result.values())
        for slot in of_kind:
            track_id = bound.get(slot.mid)
            if slot.mid not in result and track_id in names and track_id not in taken:
                result[slot.mid] = track_id
                taken.add(track_id)
        for candidate in wanted:
            if candidate.track_id not in taken:
                slot_ = _best_free(candidate, of_kind, slots, result, ordered)
                if slot_ is not None:
                    result[slot_.mid] = candidate.track_id
                    taken.add(candidate.track_id)
    return result


def _pin(slots: list[Slot], names: set[str]) -> dict[str, str]:
    return {
        slot.mid: slot.pinned_track_id
        for slot in slots
        if slot.pinned_track_id in names and slot.pinned_track_id
    }


def _best_free(
    candidate: Candidate,
    of_kind: list[Slot],
    slots: list[Slot],
    result: dict[str, str],
    all_: list[Candidate],
) -> Slot | None:
    """Return the free slot next to the companion track; else one whose companion is free."""
    free = [slot for slot in of_kind if slot.mid not in result]
    by_id = {c.track_id: c for c in all_}
    group = _COMPANIONS.get(candidate.source)
    taken_numbers = set()
    for slot in slots:
        other = by_id.get(result.get(slot.mid, ""))
        if slot.kind == candidate.kind or other is None:
            continue
        if other.participant_id == candidate.participant_id and _COMPANIONS.get(other.source) == group:
            beside = next((s for s in free if s.number == slot.number), None)
            if beside is not None:
                return beside
        taken_numbers.add(slot.number)
    return next((s for s in free if s.number not in taken_numbers), free[0] if free else None)
