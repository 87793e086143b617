"""Whom to call when, among thousands of whom nearly all have nothing to do now."""

import heapq


class Agenda:
    """Calls by time. Whoever is called earlier than before stands in it twice, and is told twice."""

    def __init__(self) -> None:
        self._calls: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._calls)

    def call(self, who: str, at: float) -> None:
        """Tell of somebody at a time, or as soon as somebody asks."""
        heapq.heappush(self._calls, (at, who))

    def take(self, now: float) -> list[str]:
        """Return who was to be called until now, each once, the longest waiting first."""
        calls = self._calls
        found: dict[str, None] = {}
        while calls and calls[0][0] <= now:
            found[heapq.heappop(calls)[1]] = None
        return list(found)
