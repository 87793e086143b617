"""Recordings of what Chromium sends in each codec: they prove themselves, decode, and play in Chromium."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import av
import av.logging
import pytest
import pytest_asyncio

from sfu.auth import mint
from tests.support.browser import Person
from tests.support.process import ServerProcess, server_process
from tests.support.recording import SECRET, Recorded

CAMERA_FPS = 20

pytestmark = pytest.mark.asyncio(loop_scope="module")

TALK_S = 4.0

# Frames that a page may send between the last look at its figures and the end of a call.
HANG_UP_FRAMES = 60

# One picture takes several packets, and one camera makes one file.
_PUBLISH = """
(() => {
  const { addTransceiver } = RTCPeerConnection.prototype;
  RTCPeerConnection.prototype.addTransceiver = function (what, init) {
    const isCamera = init.direction === "sendonly" && (what.kind ?? what) === "video";
    if (!isCamera) return addTransceiver.call(this, what, init);
    const sendEncodings = [{ scaleResolutionDownBy: 2, maxBitrate: 800_000 }];
    const transceiver = addTransceiver.call(this, what, { ...init, sendEncodings });
    const { codecs } = RTCRtpSender.getCapabilities("video");
    const wanted = codecs.filter(({ mimeType }) => mimeType === "video/CODEC");
    transceiver.setCodecPreferences([...wanted, ...codecs.filter((codec) => !wanted.includes(codec))]);
    return transceiver;
  };
})();
"""

# What the camera sends: the codec, and how many pictures up to now.
_SENT = """
async () => {
  const report = await sfuDebug.pc()?.getStats() ?? new Map();
  const entry = [...report.values()].find(({ type, kind }) => type === "outbound-rtp" && kind === "video");
  return { codec: report.get(entry?.codecId)?.mimeType, frames: entry?.framesSent ?? 0 };
}
"""

# The recording of a call, when it is in a state.
_RECORDING = """
async ([call, state, token]) => {
  const headers = { Authorization: `Bearer ${token}` };
  const { recordings } = await (await fetch(`/api/v1/recordings?call_id=${call}`, { headers })).json();
  return recordings.find((recording) => recording.state === state);
}
"""

# Play a file as it is served to its end, then from its middle for a moment; then look for sound in it.
_PLAY = """
async ([kind, url, token, patience]) => {
  const response = await fetch(url, { headers: { Authorization: `Bearer ${token}` } });
  const blob = await response.blob();
  const media = document.createElement(kind);
  const comes = (event) => new Promise((resolve, reject) => {
    const lookAt = (what) => `${what} at ${media.currentTime} of ${media.duration}: ${media.error?.message}`;
    media.addEventListener(event, resolve, { once: true });
    media.addEventListener("error", () => reject(new Error(lookAt("an error"))), { once: true });
    setTimeout(() => reject(new Error(lookAt(`no ${event}`))), patience);
  });
  media.muted = true;
  media.src = URL.createObjectURL(blob);
  document.body.append(media);
  const ended = comes("ended");
  media.playbackRate = 3;
  await media.play();
  await ended;
  const found = {
    type: blob.type,
    duration_s: media.duration,
    played_s: media.currentTime,
    size: `${media.videoWidth}x${media.videoHeight}`,
    frames: media.getVideoPlaybackQuality?.().totalVideoFrames,
    bytes: media.webkitAudioDecodedByteCount,
  };
  const seeked = comes("seeked");
  media.currentTime = media.duration / 2;
  await seeked;
  const moves = comes("timeupdate");
  await media.play();
  await moves;
  found.middle_s = media.currentTime;
  media.remove();
  URL.revokeObjectURL(media.src);
  if (kind === "audio") {
    const sound = await new OfflineAudioContext(1, 1, 48_000).decodeAudioData(await blob.arrayBuffer());
    found.sound_s = sound.duration;
    found.peak = sound.getChannelData(0).reduce((peak, sample) => Math.max(peak, Math.abs(sample)), 0);
  }
  return found;
}
"""
_PATIENCE_MS = 10_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(folder: Path) -> AsyncIterator[ServerProcess]:
    """A server that records every call."""
    async with server_process(
        SFU_AUTH__SECRET=SECRET, SFU_RECORDER__PATH=str(folder), SFU_RECORDER__MODE="always"
    ) as server:
        yield server


async def recording_of(call_id: str, state: str, reader: Person, token: str) -> dict[str, Any]:
    """Wait until the recording of a call is in a state."""
    asked = [call_id, state, token]
    await reader.until(_RECORDING, asked)
    return await reader.page.evaluate(_RECORDING, asked)


def decode(path: Path) -> tuple[str, list[Any]]:
    """Return the codec and every frame of a file; the decoder has nothing to complain of."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.WARNING)
    try:
        with av.logging.Capture(local=False) as complaints, av.open(str(path)) as container:
            (stream,) = container.streams
            frames = list(container.decode(stream))
            codec = stream.codec_context.codec.canonical_name
    finally:
        av.logging.set_level(level)
    assert complaints == []
    assert not any(frame.is_corrupt for frame in frames)
    times = [frame.pts for frame in frames]
    assert times == sorted(set(times))
    return codec, frames


@pytest.mark.parametrize("codec", ["VP8", "VP9", "H264", "AV1"])
async def test_a_recorded_call_plays_in_chromium(codec, welcome, server, folder):
    ada, bob = await asyncio.gather(*(welcome(name, sign_in=False) for name in ("Ada", "Bob")))
    for person in (ada, bob):
        await person.page.add_init_script(_PUBLISH.replace("CODEC", codec))
        await person.enter(server.url)
    token = mint("ada", secret=SECRET, grants={"record": True})

    await ada.call("bob")
    await bob.views("incoming")
    await bob.click("answer")
    await asyncio.gather(ada.views("call"), bob.views("call"))
    call_id = await ada.page.evaluate("JSON.parse(sessionStorage['sfu.call']).callId")
    await recording_of(call_id, "active", ada, token)
    before = {person.user_id: await person.page.evaluate(_SENT) for person in (ada, bob)}
    await asyncio.gather(ada.sees("bob"), bob.sees("ada"), ada.hears("bob"), bob.hears("ada"))
    await asyncio.sleep(TALK_S)
    after = {person.user_id: await person.page.evaluate(_SENT) for person in (ada, bob)}
    await ada.click("hangup")
    await asyncio.gather(ada.views("people"), bob.views("people"))
    recording = await recording_of(call_id, "sealed", ada, token)

    found = Recorded(folder / "recordings" / recording["id"])
    assert found.problems == []
    assert found.manifest["losses"] == dict.fromkeys(found.manifest["losses"], 0)
    files = [file for user in after for kind in ("audio", "video") for file in found.files(kind, user)]
    assert [(file["user_id"], file["codec"]) for file in files] == [
        ("ada", "opus"),
        ("ada", codec.lower()),
        ("bob", "opus"),
        ("bob", codec.lower()),
    ]
    sizes = {}
    for file in files:
        written, frames = await asyncio.to_thread(decode, found.folder / file["name"])
        assert (written, len(frames)) == (file["codec"], file["frames"])
        assert file["duration_ms"] > TALK_S * 1000
        if file["kind"] == "video":
            first, last = before[file["user_id"]], after[file["user_id"]]
            assert last["codec"] == f"video/{codec}"
            # Not those before the first keyframe, and a few more until the end is heard of.
            assert 0.95 * (last["frames"] - first["frames"]) <= len(frames) <= last["frames"] + HANG_UP_FRAMES
            sizes[file["name"]] = f"{frames[-1].width}x{frames[-1].height}"
        else:
            assert len(frames) == pytest.approx(file["duration_ms"] / 20, rel=0.02)

    base = f"/api/v1/recordings/{recording['id']}/files"
    plays = await asyncio.gather(
        *(
            ada.page.evaluate(_PLAY, [file["kind"], f"{base}/{file['name']}", token, _PATIENCE_MS])
            for file in files
        )
    )
    for file, played in zip(files, plays, strict=True):
        length_s = file["duration_ms"] / 1000
        assert played["type"] == f"{file['kind']}/x-matroska"
        assert played["duration_s"] == pytest.approx(length_s, abs=0.1)
        assert played["played_s"] == pytest.approx(length_s, abs=0.1)
        assert length_s / 2 <= played["middle_s"] < length_s
        if file["kind"] == "video":
            # A slow machine leaves some out; that every one decodes was seen above.
            assert played["frames"] > file["frames"] / 2
            assert played["size"] == sizes[file["name"]]
        else:
            assert played["bytes"] > 0
            assert played["sound_s"] == pytest.approx(length_s, abs=0.1)
            assert played["peak"] > 0.01
