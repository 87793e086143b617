"""Where a network blocks UDP, media goes over TCP, to and from those on UDP."""

import pytest

pytestmark = pytest.mark.asyncio(loop_scope="module")

# As a firewall would have it: no UDP candidate of the server is ever tried.
_NO_UDP = r"""
const { setRemoteDescription } = RTCPeerConnection.prototype;
RTCPeerConnection.prototype.setRemoteDescription = function ({ type, sdp }) {
  return setRemoteDescription.call(this, { type, sdp: sdp.replace(/a=candidate:\S+ 1 udp .*\r\n/g, "") });
};
"""
_PROTOCOL = """
async () => {
  const report = [...(await sfuDebug.pc().getStats()).values()];
  const { selectedCandidatePairId } = report.find(({ type }) => type === "transport");
  const pair = report.find(({ id }) => id === selectedCandidatePairId);
  return report.find(({ id }) => id === pair.remoteCandidateId).protocol;
}
"""


async def test_one_on_tcp_and_one_on_udp_see_and_hear_each_other(welcome, server):
    ada, bob = await welcome("Ada", sign_in=False), await welcome("Bob")
    await ada.page.add_init_script(_NO_UDP)
    await ada.enter(server.url)
    await ada.call("bob")
    await bob.click("answer")
    for person in (ada, bob):
        await person.views("call")
    await ada.sees("bob", 60)
    await bob.sees("ada", 60)
    await ada.hears("bob")
    await bob.hears("ada")
    assert await ada.page.evaluate(_PROTOCOL) == "tcp"
    assert await bob.page.evaluate(_PROTOCOL) == "udp"
    await ada.click("hangup")
    await bob.views("people")
