"""Three sizes of VP9 and AV1, in one encoding or in three: Chromium gets the size that it asks for."""

import asyncio

import pytest

pytestmark = pytest.mark.asyncio(loop_scope="module")

# The camera of this page sends a codec: in one encoding with spatial layers, or as the page does it.
_PUBLISH = """
([codec, scalabilityMode]) => {
  const { addTransceiver } = RTCPeerConnection.prototype;
  RTCPeerConnection.prototype.addTransceiver = function (what, init) {
    const isCamera = init.direction === "sendonly" && (what.kind ?? what) === "video";
    if (!isCamera) return addTransceiver.call(this, what, init);
    const { codecs } = RTCRtpSender.getCapabilities("video");
    const wanted = codecs.filter(({ mimeType }) => mimeType === `video/${codec}`);
    const sendEncodings = [{ scalabilityMode, codec: wanted[0] }];
    const changes = scalabilityMode ? { sendEncodings } : {};
    const transceiver = addTransceiver.call(this, what, { ...init, ...changes });
    transceiver.setCodecPreferences([...wanted, ...codecs.filter((codec) => !wanted.includes(codec))]);
    return transceiver;
  };
}
"""

# Asks for a picture of a size of somebody's camera, whatever its tile asks for.
_PREFER = """
async ([user, max_width, max_height]) => {
  const session = sfuDebug.session();
  const from = ({ participant_id }) => session.room.participants.get(participant_id)?.user_id === user;
  const { mid } = session.slots.find((slot) => slot.source === "camera" && from(slot));
  await session.prefer({ mid, max_width, max_height });
}
"""

_HAS_SIZE = """
async ([user, size]) => (await probe.received(user, "camera")).sizes.includes(size)
"""

# What the camera has sent: the codec and the rid of each encoding.
_SENT = """
async () => {
  const report = await sfuDebug.pc().getStats();
  return [...report.values()]
    .filter(({ type, kind, framesSent }) => type === "outbound-rtp" && kind === "video" && framesSent)
    .map(({ codecId, rid }) => [report.get(codecId).mimeType, rid ?? ""]).sort();
}
"""


@pytest.mark.parametrize(
    ("codec", "mode", "rids"),
    [("VP9", "L3T3_KEY", [""]), ("AV1", "L3T3", [""]), ("VP9", None, ["f", "h", "q"])],
)
async def test_a_viewer_gets_the_size_that_he_asks_for(welcome, codec, mode, rids):
    ada, bob = await asyncio.gather(welcome("Ada"), welcome("Bob"))
    await ada.page.evaluate(_PUBLISH, [codec, mode])
    await ada.call("bob")
    await bob.views("incoming")
    await bob.click("answer")
    await bob.views("call")
    await bob.sees("ada")
    for width, height in ((1280, 720), (320, 180), (640, 360), (1280, 720), (320, 180)):
        await bob.page.evaluate(_PREFER, ["ada", width, height])
        await bob.until(_HAS_SIZE, ["ada", f"{width}x{height}"])
        await bob.sees("ada", 4)
    assert await ada.page.evaluate(_SENT) == [[f"video/{codec}", rid] for rid in rids]
    assert (await bob.page.evaluate("probe.totals()"))["lost"] == 0
    await ada.click("hangup")
    await asyncio.gather(ada.views("people"), bob.views("people"))
