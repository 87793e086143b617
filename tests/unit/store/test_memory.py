"""The store in memory: bounded, because nothing else bounds it. What all stores do is tested with them."""

from sfu.calls.ports import StoredEvent
from sfu.store import memory
from sfu.store.memory import MemoryStore
from sfu.store.records import Claim
from tests.integration.test_stores import document


async def test_only_so_many_ended_calls_are_kept(monkeypatch):
    """The oldest are forgotten, with all that hangs on them."""
    monkeypatch.setattr(memory, "MAX_ENDED_CALLS", 2)
    store = MemoryStore(StoredEvent)
    for number in range(4):
        await store.commit(document(f"call_{number}", status="ended"), [])
    assert [await store.load(f"call_{n}") is not None for n in range(4)] == [False, False, True, True]
    assert [c["id"] for c in await store.history("a")] == ["call_3", "call_2"]


async def test_only_so_many_claims_are_kept(monkeypatch):
    """The oldest are forgotten first."""
    monkeypatch.setattr(memory, "MAX_CLAIMS", 2)
    store = MemoryStore(StoredEvent)
    for number in range(3):
        await store.commit(document(f"call_{number}"), [], claim=Claim("a", str(number), 0.0))
    assert [await store.claimed("a", str(n)) for n in range(3)] == [None, "call_1", "call_2"]
