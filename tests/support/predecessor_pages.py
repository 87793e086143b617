"""Pages of the front ends that were written before: plain JavaScript over their sockets and paths.

The server has no such pages: the script runs in whatever document of it is loaded.
"""

import json
from typing import Any, NotRequired, TypedDict

from tests.support.browser import PATIENCE_S, Person

# What both front ends did alike, and what a test asks of the page. Frames of the CRM have an `event`, those
# of the social network a `type`; what has an `event_id` comes on each socket of a page, which acts once.
_SCRIPT = """
((me) => {
  const front = { heard: [], acts: [], closed: {}, sockets: {}, rings: null, ended: null, pc: null };
  const acted = new Set();
  const video = document.createElement("video");
  Object.assign(video, { autoplay: true, playsInline: true });

  front.listen = (on, path) => {
    const socket = new WebSocket(`ws://${location.host}${path}?token=${me.token}`);
    front.sockets[on] = socket;
    socket.onmessage = ({ data }) => {
      const frame = { on, ...JSON.parse(data) };
      frame.name = frame.event ?? frame.type;
      front.heard.push(frame);
      receive(frame);
    };
    socket.onclose = ({ code }) => { front.closed[on] = code; };
  };
  front.say = (on, frame) => front.sockets[on].send(JSON.stringify(frame));
  front.pongs = (on) => front.heard.filter((frame) => frame.on === on && frame.name === "pong").length;
  /** Say ping on every open socket; return how many pongs each has heard when all are answered. */
  front.ping = () => {
    const open = Object.keys(front.sockets).filter((on) => !(on in front.closed));
    for (const on of open) front.say(on, { type: "ping" });
    return open.map((on) => [on, front.pongs(on) + 1]);
  };
  front.ask = async (method, path, body) => {
    const headers = { Authorization: `Bearer ${me.token}`, "Content-Type": "application/json" };
    const response = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
    return { status: response.status, body: await response.json() };
  };

  const receive = ({ name, event_id, data }) => {
    if (event_id && acted.has(event_id)) return;
    acted.add(event_id);
    front.acts.push(name);
    if (name === "call-initiated") front.rings = data.id;
    if (name === "call.incoming") front.rings = data.call_id;
    if (["call-answered", "call-rejected", "call.answered"].includes(name)) front.rings = null;
    if (name === "call.answer") front.pc.setRemoteDescription({ type: "answer", sdp: data.sdp });
    if (["call-ended", "call.end"].includes(name)) {
      front.rings = null;
      front.ended = data.id ?? data.call_id;
      front.pc?.close();
    }
  };

  /** Offer camera and microphone for a call over one of the sockets. */
  front.offer = async (on, call_id) => {
    document.body.append(video);
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true, video: true });
    const pc = new RTCPeerConnection();
    front.pc = pc;
    pc.ontrack = ({ streams: [remote] }) => { video.srcObject = remote; };
    for (const track of stream.getTracks()) pc.addTrack(track, stream);
    await pc.setLocalDescription(await pc.createOffer());
    front.say(on, { type: "call.offer", data: { call_id, sdp: pc.localDescription.sdp } });
  };
  /** What has come from the other so far. */
  front.received = async () => {
    const entries = [...(await front.pc.getStats()).values()].filter(({ type }) => type === "inbound-rtp");
    const sum = (name) => entries.reduce((total, entry) => total + (entry[name] ?? 0), 0);
    const width = video.paused ? 0 : video.videoWidth;
    const state = front.pc.connectionState;
    return { state, frames: sum("framesDecoded"), sound: sum("totalAudioEnergy"), width };
  };

  // Without an icon of its own the browser would ask the server for one.
  const icon = Object.assign(document.createElement("link"), { rel: "icon", href: "data:," });
  addEventListener("DOMContentLoaded", () => document.head.append(icon));
  window.front = front;
  for (const [on, path] of Object.entries(me.sockets)) front.listen(on, path);
})(__ME__);
"""


class Frame(TypedDict):
    """What a page heard: on which of its sockets, under which name, and what."""

    on: str
    name: str
    data: NotRequired[dict[str, Any]]
    event_id: NotRequired[str]


class FrontEnd(Person):
    """Somebody at a page of before."""

    async def load(self, url: str, token: str, sockets: dict[str, str]) -> None:
        """Load a page that opens these sockets (name → path), and see each of them answer."""
        me = json.dumps({"token": token, "sockets": sockets})
        await self.page.add_init_script(_SCRIPT.replace("__ME__", me))
        await self.page.goto(f"{url}/healthz")
        await self.until("on => on.every((name) => front.sockets[name].readyState === 1)", list(sockets))
        await self.settle()

    async def settle(self) -> None:
        """Hear an answer on every open socket: whatever was sent before it has come, too."""
        expected = await self.page.evaluate("front.ping()")
        await self.until("(expected) => expected.every(([on, pongs]) => front.pongs(on) >= pongs)", expected)

    async def post(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Send a request as the page does; return status and body."""
        return await self._ask("POST", path, body)

    async def get(self, path: str) -> tuple[int, dict[str, Any]]:
        return await self._ask("GET", path, None)

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, dict[str, Any]]:
        reply = await self.page.evaluate("request => front.ask(...request)", [method, path, body])
        return reply["status"], reply["body"]

    async def say(self, on: str, type_: str, **data: Any) -> None:
        await self.page.evaluate("said => front.say(...said)", [on, {"type": type_, "data": data}])

    async def told(self, name: str, on: str) -> Frame:
        """Hear a frame of a name on one of the sockets; return the first."""
        await self.until(
            "([name, on]) => front.heard.some((f) => f.name === name && f.on === on)", [name, on]
        )
        return (await self.heard(name, on))[0]

    async def heard(self, name: str | None = None, on: str | None = None) -> list[Frame]:
        """Return what has come so far, in order."""
        frames: list[Frame] = await self.page.evaluate("front.heard")
        return [f for f in frames if name in (None, f["name"]) and on in (None, f["on"])]

    async def acts(self, name: str) -> int:
        """How often the page has acted upon something."""
        return int(await self.page.evaluate("name => front.acts.filter((act) => act === name).length", name))

    async def rings(self) -> str | None:
        """Which call the page rings for."""
        found: str | None = await self.page.evaluate("front.rings")
        return found

    async def watches(self, frames: int) -> None:
        """Be connected, and decode so many more frames than up to now, and show and hear them."""
        await self.until("() => front.pc.connectionState === 'connected'")
        before = await self.page.evaluate("front.received()")
        await self.until(
            """async ([frames, sound]) => {
                 const now = await front.received();
                 return now.frames > frames && now.sound > sound && now.width > 0;
               }""",
            [before["frames"] + frames, before["sound"]],
        )

    async def until(self, condition: str, arg: Any = None, *, timeout_s: float = PATIENCE_S) -> None:
        try:
            await super().until(condition, arg, timeout_s=timeout_s)
        except AssertionError as error:
            heard = [{**f, "data": str(f.get("data"))[:300]} for f in await self.heard()]
            media = await self.page.evaluate("front.pc && front.received()")
            error.add_note(f"the page heard {json.dumps(heard, indent=1)}, and received {media}")
            raise
