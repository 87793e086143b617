"""Chromium is sent fewer frames of a picture, and all of them again, and decodes every one."""

import asyncio

import pytest

from tests.support.browser import Person

pytestmark = pytest.mark.asyncio(loop_scope="module")

CAMERA_FPS = 20

# Asks for so many frames a second of somebody's camera, beside what its tile asks for.
_PREFER = """
async ([user, max_fps]) => {
  const session = sfuDebug.session();
  const from = ({ participant_id }) => session.room.participants.get(participant_id)?.user_id === user;
  const { mid } = session.slots.find((slot) => slot.source === "camera" && from(slot));
  await session.prefer({ mid, max_fps });
}
"""

# Frames of somebody in so many ms, of how many a second, and what went wrong up to then.
_RATE = """
async ([user, ms]) => {
  const before = await probe.received(user, "camera");
  const began = performance.now();
  await new Promise((resolve) => setTimeout(resolve, ms));
  const now = await probe.received(user, "camera");
  return [(now.frames - before.frames) * 1000 / (performance.now() - began), now.plis];
}
"""


async def rate_settles(viewer: Person, least: float, most: float) -> int:
    """Wait until so many frames a second are decoded; return the keyframes asked for until then."""
    rates = []
    for _ in range(20):
        rate, plis = await viewer.page.evaluate(_RATE, ["ada", 1500])
        rates.append(round(rate, 1))
        if least <= rate <= most:
            return plis
    raise AssertionError(f"{least} to {most} frames a second were to come: {rates}")


async def test_so_many_frames_a_second_as_a_viewer_asks_for(welcome):
    ada, bob = await asyncio.gather(welcome("Ada"), welcome("Bob"))
    await ada.call("bob")
    await bob.views("incoming")
    await bob.click("answer")
    await bob.views("call")
    await bob.sees("ada")
    # Three temporal layers: a quarter of the frames, half of them, all.
    plis = await rate_settles(bob, 14, 25)
    for max_fps, least, most in ((5, 2, 7), (10, 7, 13), (None, 14, 25), (5, 2, 7)):
        await bob.page.evaluate(_PREFER, ["ada", max_fps])
        assert await rate_settles(bob, least, most) == plis, "a keyframe was needed"
        assert await bob.page.evaluate("probe.shows('ada', 'camera')")
