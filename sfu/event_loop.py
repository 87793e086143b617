"""What the loop of a process runs on, and how little its garbage collector may hold it up."""

import asyncio
import gc
from collections.abc import Callable

# The collector walks over what is new: 1,000 objects take it 0.4 ms, a second look at what was left of 3,000
# takes 1.3; 50,000 took 20 in which nobody was heard. Over all that is kept it walks after 50 million; what
# goes by counting references it never sees.
COLLECT = (1_000, 2, 16_000)


def factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes event loops: uvloop's where it exists, else None for asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def settle() -> None:
    """Everything is in its place: the collector need not walk over it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT)
