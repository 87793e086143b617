"""A real Chromium accepts our answers to everything that it offers."""

from playwright.async_api import async_playwright

from sfu.media import sdp
from sfu.media.negotiation import LocalTransport, Policy, Sending, agree, answer, remote_transport
from tests.data.record_offers import SCENARIOS, accept, begin, blank_page, offer

ROOM = Policy(frozenset({"opus", "red", "vp8", "h264", "vp9", "av1"}))

# (mid, currentDirection) after each answer. A stopped transceiver is no longer listed.
EXPECTED = {
    "audio_video": [("0", "sendonly"), ("1", "sendonly")],
    "add_screen": [("0", "sendonly"), ("1", "sendonly"), ("2", "sendonly")],
    "ice_restart": [("0", "sendonly"), ("1", "sendonly"), ("2", "sendonly")],
    "stopped": [("0", "sendonly"), ("1", "sendonly")],
    "recycled": [("0", "sendonly"), ("1", "sendonly"), ("3", "sendonly")],
    "simulcast_data": [("0", "sendonly"), ("1", "sendonly")],
    "slots": [(str(mid), "recvonly") for mid in range(18)],
}


def our_answer(text: str, version: int) -> str:
    """Answer as the server does, with a transport that nobody listens on."""
    description = sdp.parse(text)
    remote = remote_transport(description)
    sendings = {m.mid: Sending(1000 + 2 * i, 1001 + 2 * i, f"s{i}") for i, m in enumerate(description.media)}
    local = LocalTransport(
        # A restart of theirs is a restart of ours: the ufrag follows theirs.
        ufrag="".join(reversed(remote.ufrag)),
        password="x" * 24,
        fingerprint=":".join(["AB"] * 32),
        candidates=[("127.0.0.1", 9, "udp"), ("127.0.0.1", 9, "tcp")],
        version=version,
    )
    return str(answer(description, agree(description, ROOM, sendings), local, remote.our_role))


async def test_chromium_accepts_our_answers():
    """First offers, renegotiation, ICE restart, rejected and recycled m-lines, simulcast, data, slots."""
    async with async_playwright() as playwright:
        page = await blank_page(playwright)
        for steps in SCENARIOS:
            await begin(page)
            for version, step in enumerate(steps, 1):
                text = await offer(page, step)
                assert (step, await accept(page, our_answer(text, version))) == (step, EXPECTED[step])
        await page.context.browser.close()
