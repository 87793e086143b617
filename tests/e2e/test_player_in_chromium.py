"""The page of recordings in Chromium: a real call is found, played in step, sought in, checked and erased."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import pytest
import pytest_asyncio
from playwright.async_api import expect

from sfu.auth import mint
from sfu.bot.client import Client
from sfu.bot.media import MediaConnection
from sfu.bot.patterns import Tone, read_number
from sfu.recorder.timeline import map_files
from tests.support.browser import Person
from tests.support.process import ServerProcess
from tests.support.recording import (
    SECOND,
    SECRET,
    Person as Bot,
    Recorded,
    Stage,
    on_stage,
    recording_server,
    until,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOSTILE = '<img src=x onerror="window.hacked=1">\'&\u202e<b>'
# A character that turns what stands behind it is seen as what it is.
SHOWN = HOSTILE.replace("\u202e", "\ufffd")
REASON = "</p><script>window.hacked=1</script> card number"

# Two files are in step when they are no farther apart than this; a picture stays for fifty milliseconds.
STEP_MS, PICTURE_MS = 80, 50
SECOND_MS = 1000

# What is asked of the player and of the pictures on the screen.
_PROBE = """
(() => {
  const canvas = new OffscreenCanvas(320, 240);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const number = (video) => {
    context.drawImage(video, 0, 0, 320, 16, 0, 0, 320, 16);
    const { data } = context.getImageData(0, 8, 320, 1);
    const bits = Array.from({ length: 17 }, (_, place) => Number(data[(place * 16 + 8) * 4] > 125));
    const parity = bits.pop();
    if (bits.reduce((sum, bit) => sum + bit, 0) % 2 !== parity) return null;
    return bits.reduce((sum, bit, place) => sum + bit * 2 ** place, 0);
  };
  window.seen = () => {
    const { player } = recordingsDebug;
    const videos = [...document.querySelectorAll("[data-tile][data-video] video[data-live]")];
    const at = player.position;
    const numbers = Object.fromEntries(videos.map((video) => [video.dataset.file, number(video)]));
    // On a busy machine time passes while pictures are read: they are of some moment from `at` to `until`.
    const until = player.position;
    const { drifts, isPlaying: playing } = player;
    return { at, until, numbers, drifts, playing, waiting: player.waiting.length };
  };
  /** What is seen with each of so many frames of the screen. */
  window.watch = async (frames) => {
    const found = [];
    while (found.length < frames) {
      await new Promise((resolve) => requestAnimationFrame(resolve));
      found.push(seen());
    }
    return found;
  };
})();
"""


# What a log of ten seconds says, lane by lane.
_LANES = """\
Call
  The recording began, asked for by u2, at 00:00
  Consent: only who accepted is recorded, at 00:00
  moon rose: u2, at 00:07
  Paused by u2, nothing was recorded: no reason was given, 00:08 to 00:10
  The recording ended: the recorder failed, and it was sealed afterwards, at 00:10
  1 packet did not reach the recorder in time, at 00:10
  Damage: 1.mkv: cut, at 00:10
Uma
  Uma joined, at 00:01
  Uma was in the call, 00:01 to 00:09
  Uma was asked whether this may be recorded, at 00:01
  Uma accepted being recorded, at 00:02
  Uma spoke, 00:04 to 00:06
  Uma left, at 00:09
Camera
  Camera of Uma was off, 00:01 to 00:03
  Camera of Uma recorded in 1.mkv (VP8), 00:03 to 00:08
  Camera of Uma: 4 packets lost, at 00:05
  Camera of Uma was off, 00:07 to 00:09
u2
  Nothing of u2 was recorded, 00:00 to 00:10"""


@dataclass
class Kept:
    """A recording of a call."""

    found: Recorded

    @property
    def id(self) -> str:
        return self.found.folder.name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(folder: Path) -> AsyncIterator[ServerProcess]:
    """A server that records every call."""
    async with recording_server(folder) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage(server: ServerProcess) -> AsyncIterator[Stage]:
    async with on_stage(server) as stage:
        yield stage


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def kept(stage: Stage, folder: Path) -> Kept:
    return await record_a_call(stage, folder)


async def record_a_call(stage: Stage, folder: Path) -> Kept:
    """Two with pictures and one with an evil name talk; one mutes herself, and there is a pause.

    Nobody receives anything, so that even a busy machine sends in time.
    """
    rest = stage.rest("ada", record=True)
    async with AsyncExitStack() as stack:
        ada, bob = await stage.people("ada", "bob")
        eve = await evil(stage, stack)
        request = {"callee_ids": ["bob", "eve"], "call_type": "video"}
        call = {"call_id": (await ada.client.request("call.initiate", request))["call"]["id"]}
        await asyncio.gather(ada.join(call, slots=0), bob.join(call, slots=0))
        await bob.client.request("call.answer", call)
        recording_id = await ada.recording("active")
        await eve.media.join(call, [Tone(880.0)], audio_slots=0, video_slots=0)
        await eve.client.request("call.answer", call)
        await sends(bob, 2 * SECOND)
        mute = {"track_id": ada.track_ids["audio"]}
        await ada.client.request("media.mute", {**mute, "muted": True})
        await sends(bob, SECOND)
        await ada.client.request("media.mute", {**mute, "muted": False})
        of = f"/calls/{call['call_id']}/recording"
        await rest("POST", of, {"action": "pause", "reason": REASON})
        await ada.recording("paused")
        await sends(bob, 2 * SECOND)
        await rest("POST", of, {"action": "resume"})
        await ada.recording("active")
        await sends(bob, 4 * SECOND)
        await ada.client.request("call.end", call)
        await ada.recording("sealed")
    return Kept(Recorded(folder / "recordings" / recording_id))


async def sends(person: Bot, pictures: int) -> None:
    """Wait until somebody has sent so many more pictures, and as much sound."""
    wanted, spoken = person.video.frames + pictures, person.voice.sent_s + pictures / SECOND
    await until(lambda: person.video.frames >= wanted and person.voice.sent_s >= spoken)


async def evil(stage: Stage, stack: AsyncExitStack) -> Bot:
    """Somebody whose name does harm where it is taken for HTML."""
    token = mint("eve", secret=SECRET, name=HOSTILE)
    client = await stack.enter_async_context(Client(stage.server.ws_url, token))
    media = MediaConnection(client, lambda _mid, _frame: None)
    stack.push_async_callback(media.close)
    return Bot("eve", client, media)


async def another_call(stage: Stage, kept: Kept, *names: str) -> str:
    """Record a short call; return its id."""
    first, second = await stage.people(*names)
    call = await stage.talk(first, second)
    await first.recording("active", beside={kept.id})
    await first.sees(SECOND)
    await first.client.request("call.end", {"call_id": call["id"]})
    return await first.recording("sealed", beside={kept.id})


def token_of(user: str, **grants: Any) -> str:
    return mint(user, secret=SECRET, name=user.title(), grants=grants)


async def come(welcome: Any, server: ServerProcess, token: str, recording: str = "") -> Person:
    """Open the page with a token in its address, at a recording or at the list."""
    at = f"&recording={recording}" if recording else ""
    reader = await welcome("Reader", f"{server.url}/recordings.html#token={token}{at}", sign_in=False)
    await reader.page.evaluate(_PROBE)
    if recording:
        await expect(reader.part("player")).to_be_visible()
    return reader


async def position(reader: Person) -> float:
    return float(await reader.page.evaluate("recordingsDebug.player.position"))


async def seek(reader: Person, to: float) -> None:
    await reader.page.evaluate("to => recordingsDebug.player.seek(to)", to)


async def act(reader: Person, button: str, reason: str) -> None:
    """Press a button that asks for a reason, and give one."""
    await reader.click(button)
    await reader.part("reason").fill(reason)
    await reader.click("ask-yes")


def picture_times(kept: Kept) -> dict[str, dict[int, float]]:
    """Return when each numbered picture of each file was captured, in milliseconds of the recording."""
    lines = map_files(kept.found.manifest["files"], kept.found.events)
    times: dict[str, dict[int, float]] = {}
    for file in kept.found.files("video"):
        with av.open(str(kept.found.folder / file["name"])) as container:
            frames = [(read_number(frame), frame.time) for frame in container.decode(video=0)]
        line = lines[file["name"]]
        times[file["name"]] = {number: line.at(at) * 1000 for number, at in frames if number is not None}
    return times


Lag = tuple[float, float]


def lags(seen: list[dict[str, Any]], times: dict[str, dict[int, float]]) -> list[dict[str, Lag]]:
    """Return for each look how long ago what each picture shows was captured: at least, and at most."""
    known = [(look["at"], look["until"], look["numbers"]) for look in seen]
    return [
        {name: (at - times[name][number], until - times[name][number]) for name, number in numbers.items()}
        for at, until, numbers in known
        if numbers.keys() == times.keys() and all(numbers[name] in times[name] for name in times)
    ]


def apart(look: dict[str, Lag]) -> float:
    """Return how far pictures are apart at least."""
    return max(least for least, _ in look.values()) - min(most for _, most in look.values())


def are_of_their_time(look: dict[str, Lag]) -> bool:
    return all(least <= STEP_MS + PICTURE_MS and most >= -STEP_MS for least, most in look.values())


async def test_two_pictures_and_three_voices_play_in_step(welcome, server, kept):
    reader = await come(welcome, server, token_of("ada", record=True), kept.id)
    assert "token" not in reader.page.url
    times = picture_times(kept)
    assert len(times) == 2
    await reader.click("play")
    await reader.until("() => recordingsDebug.player.position > 1200")
    seen = await reader.page.evaluate("watch(60)")
    (pause,) = kept.found.manifest["pauses"]
    looks = lags([look for look in seen if look["at"] < pause["from_ms"]], times)
    assert len(looks) >= 20, seen[:3]
    for look in looks:
        assert apart(look) <= STEP_MS + PICTURE_MS, looks
        assert are_of_their_time(look), look
    drifts = [drift for look in seen for drift in look["drifts"].values()]
    assert len(seen[0]["drifts"]) == 5
    assert max(abs(drift) for drift in drifts) < STEP_MS

    # Twice as fast, and after jumps to and fro; one is into the pause.
    await reader.click("speed-2")
    for to in (pause["to_ms"] - 600, 500):
        await seek(reader, to)
        await reader.until("to => recordingsDebug.player.position > to + 1200", to)
        looks = lags(await reader.page.evaluate("watch(20)"), times)
        assert looks
        for look in looks:
            assert apart(look) <= 2 * (STEP_MS + PICTURE_MS), look
    before, wall = await reader.page.evaluate("[recordingsDebug.player.position, performance.now()]")
    await reader.until("at => recordingsDebug.player.position > at + 1500", before)
    after, later = await reader.page.evaluate("[recordingsDebug.player.position, performance.now()]")
    assert (after - before) / (later - wall) == pytest.approx(2, abs=0.5)

    # To its end, and from the beginning again.
    await seek(reader, 1e9)
    await reader.until("() => !recordingsDebug.player.isPlaying")
    await reader.click("play")
    await reader.until("() => { const { at } = seen(); return at > 300 && at < 4000; }")


async def test_what_stands_shows_the_picture_of_its_time(welcome, server, kept):
    """Pictures are those of the moment that was sought, whether it plays or not."""
    reader = await come(welcome, server, token_of("boss", admin=True), kept.id)
    times = picture_times(kept)
    (pause,) = kept.found.manifest["pauses"]
    # Where there are two pictures: not from the same moment on, and not in the pause.
    begin = max(min(shown.values()) for shown in times.values())
    end = min(max(at for at in shown.values() if at < pause["from_ms"]) for shown in times.values())
    assert end - begin > SECOND_MS
    for share in (0.4, 0.9, 0.1):
        to = begin + (end - begin) * share
        await seek(reader, to)
        await reader.until("() => seen().waiting === 0 && Object.keys(seen().numbers).length === 2")
        (look,) = lags([await reader.page.evaluate("seen()")], times)
        assert are_of_their_time(look), (to, look)


async def test_voices_have_silence_where_nothing_was_recorded(welcome, server, kept):
    """A browser plays packets one after the other: what comes after a pause would come too early."""
    reader = await come(welcome, server, token_of("boss", admin=True), kept.id)
    (voice,) = kept.found.files("audio", "bob")
    with av.open(str(kept.found.folder / voice["name"])) as container:
        times = [float(packet.pts * packet.time_base) * 1000 for packet in container.demux() if packet.size]
    length, begin = max((after - before, before) for before, after in itertools.pairwise(times))
    assert length > 1000
    moments = [begin - 400, begin + length / 2, begin + length + 400]
    url = f"/api/v1/recordings/{kept.id}/files/{voice['name']}"
    sound = await reader.page.evaluate(
        """async ([url, token, moments]) => {
             const { withSilence } = await import("/recordings-api.js");
             const response = await fetch(url, { headers: { Authorization: `Bearer ${token}` } });
             const bytes = withSilence(new Uint8Array(await response.arrayBuffer()));
             const sound = await new OfflineAudioContext(1, 1, 48_000).decodeAudioData(bytes.buffer);
             const samples = sound.getChannelData(0);
             const level = (at) => Math.max(...samples.subarray(at * 48, (at + 100) * 48).map(Math.abs));
             return { ms: sound.duration * 1000, levels: moments.map(level) };
           }""",
        [url, token_of("boss", admin=True), moments],
    )
    assert sound["ms"] == pytest.approx(voice["duration_ms"], abs=60)
    before, within, after = sound["levels"]
    assert before > 0.1 and after > 0.1
    assert within < 0.001


async def test_the_timeline_tells_what_happened(welcome, server, kept):
    reader = await come(welcome, server, token_of("ada", record=True), kept.id)
    lanes = reader.part("timeline").locator(".lane")
    names = ["Call", "Ada", "Microphone", "Camera", "Bob", "Microphone", "Camera", SHOWN, "Microphone"]
    found = await lanes.locator(".lane-name").all_text_contents()
    assert sorted(found) == sorted(names)
    marks = reader.part("timeline").locator(".mark")
    words = [await mark.get_attribute("aria-label") or "" for mark in await marks.all()]
    for wanted in (
        "began, as every call here", "everybody in the call was told", "ended: the call ended", "Ada spoke",
        f"Paused by ada, nothing was recorded: {REASON}", "Microphone of Ada was off", f"{SHOWN} spoke",
        "Bob was in the call", "Camera of Bob recorded in",
    ):  # fmt: skip
        assert any(wanted in told for told in words), (wanted, words)
    # Files are interrupted by the pause.
    camera = reader.part("timeline").locator('[data-lane="bob camera"] .mark[data-mark="recorded"]')
    assert await camera.count() == 2
    # Pointing tells, clicking goes there.
    await camera.nth(1).hover()
    await expect(reader.part("mark-words")).to_contain_text("Camera of Bob recorded in")
    box = await camera.nth(1).bounding_box()
    assert box is not None
    await reader.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    (pause,) = kept.found.manifest["pauses"]
    assert await position(reader) > pause["to_ms"]
    # In the pause it is said that there is nothing, and one need not wait.
    await seek(reader, (pause["from_ms"] + pause["to_ms"]) / 2)
    await expect(reader.part("pause-note")).to_contain_text(REASON)
    await reader.click("skip-pause")
    await expect(reader.part("pause-note")).to_be_hidden()
    assert await position(reader) == pause["to_ms"]


async def test_the_page_maps_files_as_the_server_does(welcome, server, kept):
    reader = await come(welcome, server, token_of("ada", record=True), kept.id)
    lines = map_files(kept.found.manifest["files"], kept.found.events)
    pieces = await reader.page.evaluate(
        """async ([manifest, events]) =>
             (await import("/call-timeline.js")).callTimeline(manifest, JSON.parse(events)).pieces""",
        # As text: Playwright takes no numbers that are as large as a sender's clock.
        [kept.found.manifest, json.dumps(kept.found.events)],
    )
    assert {piece["name"] for piece in pieces} == set(lines)
    for piece in pieces:
        assert piece["startMs"] == pytest.approx(lines[piece["name"]].start_s * 1000, abs=0.01)
        assert piece["rate"] == pytest.approx(lines[piece["name"]].rate, abs=1e-7)


async def test_lanes_come_from_the_log_alone(welcome, server):
    """Who was muted when he came, who accepted, what a crash left open, and events that nobody knows."""
    reader = await come(welcome, server, token_of("boss", admin=True))
    track = {"track_id": "t1", "source": "camera", "muted": True}
    joined = {"participant_id": "p1", "user_id": "u1", "name": "Uma", "tracks": [track]}
    loss = {"track_id": "t1", "packets": 2, "broken_frames": 0, "frames_before_keyframe": 0}
    began = {"by": "u2", "reason": "", "consent": "require_ack", "participants": ["u2"]}
    told = [
        (0, "recording_started", began),
        (1000, "participant_joined", {"participant": joined}),
        (1100, "consent_asked", {"user_id": "u1"}),
        (2000, "consent", {"user_id": "u1", "answer": "accepted"}),
        (3000, "track_muted", {"participant_id": "p1", "track_id": "t1", "muted": False}),
        (4000, "speakers", {"speakers": [{"participant_id": "p1", "level": 0.5}]}),
        (5000, "loss", loss),
        (5010, "loss", loss),
        (6000, "speakers", {"speakers": []}),
        (7000, "track_muted", {"participant_id": "p1", "track_id": "t1", "muted": True}),
        (7500, "moon_rose", {"by": "u2"}),
        (8000, "paused", {"by": "u2"}),
        (9000, "participant_left", {"participant_id": "p1"}),
    ]
    file = {
        "name": "1.mkv", "kind": "video", "codec": "vp8", "source": "camera", "size": None, "start_ms": 3000,
        "track_id": "t1", "participant_id": "p1", "user_id": "u1", "user_name": "Uma", "ssrc": 1,
    }  # fmt: skip
    manifest = {
        "duration_ms": 10_000,
        "end_reason": "crash",
        "pauses": [{"from_ms": 8000, "to_ms": None, "reason": ""}],
        "losses": {"dropped_before_recorder": 1},
        "damage": ["1.mkv: cut"],
        "files": [file, file | {"name": "2.mkv", "is_empty": True}],
    }
    events = [{"t_ms": at, "type": type_, "data": data} for at, type_, data in told]
    lanes = await reader.page.evaluate(
        """async ([manifest, events]) => {
             const { lanes } = (await import("/call-timeline.js")).callTimeline(manifest, events);
             return lanes.flatMap(({ label, items }) => [label, ...items.map(({ words }) => `  ${words}`)]);
           }""",
        [manifest, events],
    )
    assert lanes == _LANES.split("\n")


async def test_it_is_used_by_keyboard(welcome, server, kept):
    reader = await come(welcome, server, token_of("ada", record=True))
    page, keys = reader.page, reader.page.keyboard
    link = reader.part(f"recording-{kept.id}")
    await link.focus()
    await keys.press("Enter")
    await expect(reader.part("player")).to_be_visible()
    await expect(reader.part("title")).to_be_focused()
    await keys.press("Space")
    await reader.until("() => recordingsDebug.player.position > 200")
    await keys.press("Space")
    assert not await page.evaluate("recordingsDebug.player.isPlaying")
    await keys.press("Home")
    assert await position(reader) == 0
    await keys.press("ArrowRight")
    assert await position(reader) == 5000
    await keys.press("ArrowLeft")
    assert await position(reader) == 0
    # One stop in the timeline; arrows go from mark to mark and from lane to lane, Enter seeks.
    assert await page.locator('.mark[tabindex="0"]').count() == 1
    await page.locator('.mark[tabindex="0"]').focus()
    await expect(reader.part("mark-words")).to_contain_text("The recording began")
    await keys.press("ArrowRight")
    await keys.press("ArrowRight")
    await expect(reader.part("mark-words")).to_contain_text(REASON)
    assert await position(reader) == 0
    await keys.press("Enter")
    (pause,) = kept.found.manifest["pauses"]
    assert await position(reader) == pause["from_ms"]
    await keys.press("ArrowDown")
    focused = await page.evaluate("document.activeElement.closest('.lane').dataset.lane")
    assert focused in ("ada", "bob")
    assert await page.locator('.mark[tabindex="0"]').count() == 1
    # Everything that can be pressed has a name.
    nameless = await page.evaluate(
        """[...document.querySelectorAll("button, a, input, select")].filter((node) =>
             node.checkVisibility() && !(node.ariaLabel || node.textContent.trim() || node.labels?.length)
           ).map((node) => node.outerHTML)"""
    )
    assert nameless == []


async def test_a_hostile_name_is_only_a_name(welcome, server, kept):
    reader = await come(welcome, server, token_of("ada", record=True), kept.id)
    await expect(reader.part("voices").locator(".tile-name")).to_have_text([SHOWN])
    await expect(reader.part("title")).to_contain_text(SHOWN)
    # Only administrators hold and erase.
    await expect(reader.part("verify")).to_be_visible()
    await expect(reader.part("erase")).to_be_hidden()
    await reader.part("back").click()
    await expect(reader.part(f"recording-{kept.id}")).to_contain_text(SHOWN)
    assert await reader.page.evaluate("window.hacked") is None
    assert await reader.page.locator("img, main script").count() == 0


async def test_the_list_is_filtered_and_comes_in_pages(welcome, server, stage, kept):
    other = await another_call(stage, kept, "ada", "carol")
    reader = await come(welcome, server, token_of("boss", admin=True))
    page, rows = reader.page, reader.part("recordings").locator("li")
    hrefs = [f"#recording={other}", f"#recording={kept.id}"]

    async def shows(*wanted: str) -> None:
        await reader.until(
            """wanted => JSON.stringify([...document.querySelectorAll(".recording-row a")].map((a) =>
                 a.getAttribute("href"))) === JSON.stringify(wanted)""",
            list(wanted),
        )

    await shows(*hrefs)
    await expect(rows.nth(1)).to_contain_text("Ada")
    await expect(rows.nth(1)).to_contain_text("Sealed")
    await reader.part("filter-user").fill("bob")
    await reader.click("filter")
    await shows(hrefs[1])
    await reader.click("filter-clear")
    await shows(*hrefs)
    await reader.part("filter-state").select_option("failed")
    await reader.click("filter")
    await shows()
    await expect(reader.part("list-words")).to_contain_text("No recording is like that")
    await reader.click("filter-clear")
    today = await page.evaluate("new Intl.DateTimeFormat('sv').format(new Date())")
    for field, day, wanted in (
        ("filter-since", today, hrefs),
        ("filter-until", today, hrefs),
        ("filter-since", "2999-01-01", []),
        ("filter-until", "2001-01-01", []),
    ):
        await reader.part(field).fill(day)
        await reader.click("filter")
        await shows(*wanted)
        await reader.click("filter-clear")
        await shows(*hrefs)

    # One on a page.
    async def fewer(route: Any) -> None:
        await route.continue_(url=f"{route.request.url}{'&' if '?' in route.request.url else '?'}limit=1")

    await page.route("**/api/v1/recordings*", fewer)
    await reader.click("filter")
    await shows(hrefs[0])
    await reader.click("more")
    await shows(*hrefs)
    await expect(reader.part("more")).to_be_hidden()
    # A server that does not answer.
    await page.unroute("**/api/v1/recordings*")
    await page.route("**/api/v1/recordings*", lambda route: route.abort())
    reader.allow("net::ERR_FAILED")
    await reader.click("filter")
    await expect(reader.part("list-words")).to_contain_text("The server cannot be reached")


async def test_who_may_not_is_told_why(welcome, server, kept):
    reader = await welcome("Reader", f"{server.url}/recordings.html", sign_in=False)
    reader.allow("status of 40[134]")
    for token, words in ((token_of("bob"), "lacks the grants"), ("nonsense", "does not open")):
        await reader.part("token").fill(token)
        await reader.click("enter")
        await expect(reader.part("signin-error")).to_contain_text(words)
    # Who was in none of the calls sees nothing, and opens nothing.
    await reader.part("token").fill(token_of("zoe", record=True))
    await reader.click("enter")
    await expect(reader.part("list-words")).to_have_text("There is no recording yet.")
    await reader.page.evaluate("id => { location.hash = `recording=${id}`; }", kept.id)
    await expect(reader.part("no-player")).to_contain_text("There is no such recording")
    # It is the same person after a reload, and nobody after signing out.
    await reader.page.reload()
    await expect(reader.part("no-player")).to_contain_text("There is no such recording")
    await reader.part("back").click()
    await reader.click("sign-out")
    await expect(reader.part("token")).to_be_visible()
    assert await reader.page.evaluate("Object.values(sessionStorage).join('')") == ""


async def test_a_ticket_that_is_over_is_asked_for_anew(welcome, server, kept):
    reader = await come(welcome, server, token_of("ada", record=True))
    reader.allow("status of 401")
    refused: set[str] = set()
    asked: list[str] = []

    async def refuse_once(route: Any) -> None:
        path = route.request.url.partition("?")[0]
        if path in refused:
            await route.continue_()
        else:
            refused.add(path)
            await route.fulfill(
                status=401, json={"detail": "The ticket does not hold.", "code": "ticket_over"}
            )

    await reader.page.route("**/files/*ticket=*", refuse_once)
    reader.page.on("request", lambda request: asked.append(request.url) if "/play" in request.url else None)
    await reader.part(f"recording-{kept.id}").click()
    await expect(reader.part("player")).to_be_visible()
    await reader.click("play")
    await reader.until("() => recordingsDebug.player.position > 1000")
    assert await reader.page.evaluate("recordingsDebug.player.broken") == []
    assert len(refused) == 2 + 5
    assert 2 <= len(asked) <= len(refused) + 1


async def test_files_are_downloaded_checked_held_and_erased(welcome, server, stage, kept, folder):
    recording_id = await another_call(stage, kept, "ada", "bob")
    found = Recorded(folder / "recordings" / recording_id)
    reader = await come(welcome, server, token_of("boss", admin=True), recording_id)
    reader.allow("status of 409")
    name = found.files("video", "ada")[0]["name"]
    async with reader.page.expect_download() as download:
        await reader.click(f"download-{name}")
    saved = await (await download.value).path()
    assert await asyncio.to_thread(saved.read_bytes) == (found.folder / name).read_bytes()

    verdict = reader.part("verdict")
    await reader.click("verify")
    await expect(verdict).to_contain_text("Everything is as it was recorded")
    data = bytearray((found.folder / name).read_bytes())
    data[-20] ^= 1
    (found.folder / name).write_bytes(data)
    await reader.click("verify")
    await expect(verdict).to_contain_text("This is not what was recorded")
    await expect(verdict.locator("li").first).to_contain_text(name)

    await act(reader, "hold", "a lawsuit <b>")
    await expect(reader.part("ask")).to_be_hidden()
    await expect(reader.part("facts")).to_contain_text("a lawsuit <b> (by boss")
    await act(reader, "erase", "not wanted")
    await expect(reader.part("ask")).to_contain_text(f"Erase {recording_id}?")
    await expect(reader.part("ask-error")).to_contain_text("held")
    await reader.page.keyboard.press("Escape")
    await expect(reader.part("ask")).to_be_hidden()
    assert (found.folder / name).exists()
    await act(reader, "hold", "it is over")
    await expect(reader.part("facts")).not_to_contain_text("lawsuit")
    await act(reader, "erase", "not wanted")
    await expect(reader.part("no-player")).to_contain_text("It was erased")
    await expect(reader.part("facts")).to_contain_text("boss: not wanted")
    await until(lambda: not (found.folder / name).exists())
    await reader.part("audit").locator("summary").click()
    entries = reader.part("audit-entries")
    for action in ("play", "verify", "hold", "release", "erase"):
        await expect(entries).to_contain_text(action)
