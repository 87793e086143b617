"""Front ends written before, in Chromium: their sockets, their paths, their own connections to the server."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import Browser

from sfu.auth import mint
from tests.support.predecessor_pages import FrontEnd
from tests.support.process import ServerProcess, server_process

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRET = secrets.token_urlsafe(48)
LOOPBACK = {"SFU_HTTP__HOST": "127.0.0.1", "SFU_MEDIA__LISTEN_IP": "127.0.0.1"}

NOTIFICATIONS = {"notifications": "/ws/notifications/"}

Visit = Callable[..., Awaitable[FrontEnd]]
Put = Callable[..., Awaitable[None]]

both = asyncio.gather


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[ServerProcess]:
    """A server that believes the tokens of a host application."""
    async with server_process("-m", "sfu", "serve", SFU_AUTH__SECRET=SECRET, **LOOPBACK) as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def visit(browser: Browser, server: ServerProcess) -> AsyncIterator[Visit]:
    """Load a page with these sockets for somebody; every page must come to its end without an error."""
    people: list[FrontEnd] = []

    async def come(name: str, sockets: dict[str, str]) -> FrontEnd:
        person = await FrontEnd.arrive(browser, name)
        people.append(person)
        await person.load(server.url, mint(person.user_id, name=name, secret=SECRET), sockets)
        return person

    yield come
    for person in people:
        await person.go()
    faults = [fault for person in people for fault in person.faults]
    assert not faults, faults


@pytest.fixture
def put(server: ServerProcess) -> Put:
    """Say who belongs to a conversation, as the host application does."""

    async def put(conversation_id: str, *user_ids: str) -> None:
        token = mint("host", secret=SECRET, grants={"admin": True})
        async with (
            aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as http,
            http.put(
                f"{server.url}/api/v1/conversations/{conversation_id}", json={"participants": user_ids}
            ) as response,
        ):
            assert response.status == 201

    return put


# The CRM


def video_call(user_id: str) -> dict[str, str]:
    return {"crm": f"/ws/video-call/{user_id}/"}


async def crm(visit: Visit, *names: str) -> list[FrontEnd]:
    return await both(*(visit(name, video_call(name.lower())) for name in names))


async def place(caller: FrontEnd, callee: FrontEnd) -> str:
    """Call somebody in the CRM, and see it ring for him; return the id of the call."""
    status, call = await caller.post("/calls/initiate/", {"recipient_id": callee.user_id})
    assert (status, call["status"], call["call_type"]) == (201, "pending", "video")
    assert (call["initiator"], call["recipient"]) == (caller.user_id, callee.user_id)
    told = (await callee.told("call-initiated", "crm")).get("data", {})
    assert (told["id"], told["status"], told["room_name"]) == (call["id"], "pending", call["room_name"])
    assert (told["initiator"], told["initiator_name"]) == (caller.user_id, caller.name)
    assert told["participants"] == [caller.user_id, callee.user_id]
    assert await callee.rings() == call["id"]
    return str(call["id"])


async def test_a_call_in_the_crm_is_answered_and_ends(visit: Visit) -> None:
    ada, bob = await crm(visit, "Ada", "Bob")
    for person in (ada, bob):
        first = (await person.heard())[0]
        assert (first["name"], first.get("data")) == (
            "connected",
            {"message": "Connected to video call notifications"},
        )
    call_id = await place(ada, bob)

    status, answered = await bob.post(f"/calls/{call_id}/answer/")
    assert (status, answered["id"], answered["status"]) == (200, call_id, "active")
    for person in (ada, bob):
        told = (await person.told("call-answered", "crm")).get("data", {})
        assert (told["id"], told["status"]) == (call_id, "active")
        assert await person.rings() is None
        assert told["jitsi_url"]["room_name"] == told["room_name"]
        # What is told is enough to come to where the media are.
        joined = await person.page.evaluate(
            """({ url, token }) => new Promise((resolve, reject) => {
                 const socket = new WebSocket(`${url}?token=${token}`);
                 socket.onmessage = ({ data }) => { resolve(JSON.parse(data)); socket.close(); };
                 socket.onclose = ({ code }) => reject(new Error(`closed with ${code}`));
               })""",
            told["jitsi_url"],
        )
        assert (joined["type"], joined["data"]["user_id"]) == ("connected", person.user_id)

    status, ended = await ada.post(f"/calls/{call_id}/end/")
    assert (status, ended["id"], ended["status"]) == (200, call_id, "ended")
    for person in (ada, bob):
        told = (await person.told("call-ended", "crm")).get("data", {})
        assert (told["id"], told["status"], told["jitsi_url"]) == (call_id, "ended", None)
        await person.settle()
        assert [await person.acts(f"call-{act}") for act in ("answered", "rejected", "ended")] == [1, 0, 1]
    assert (await ada.acts("call-initiated"), await bob.acts("call-initiated")) == (0, 1)


async def test_a_call_in_the_crm_is_rejected(visit: Visit) -> None:
    cleo, dora = await crm(visit, "Cleo", "Dora")
    call_id = await place(cleo, dora)
    status, rejected = await dora.post(f"/calls/{call_id}/reject/", {"reason": "in a meeting"})
    assert (status, rejected["id"], rejected["status"]) == (200, call_id, "rejected")
    for person in (cleo, dora):
        assert (await person.told("call-rejected", "crm")).get("data", {})["id"] == call_id
        assert (await person.told("call-ended", "crm")).get("data", {})["status"] == "rejected"
        await person.settle()
        assert await person.acts("call-answered") == 0
        assert await person.rings() is None


async def test_a_page_of_the_crm_that_is_reloaded_rings_again(visit: Visit) -> None:
    emil, fay = await crm(visit, "Emil", "Fay")
    call_id = await place(emil, fay)
    await fay.page.reload()
    assert (await fay.told("call-initiated", "crm")).get("data", {})["id"] == call_id
    assert await fay.rings() == call_id
    await fay.settle()
    assert await fay.acts("call-initiated") == 1
    # While it rings, to end it is to refuse it.
    await fay.post(f"/calls/{call_id}/end/")
    assert (await emil.told("call-rejected", "crm")).get("data", {})["id"] == call_id
    assert (await fay.told("call-ended", "crm")).get("data", {})["status"] == "rejected"
    assert await fay.rings() is None


async def test_the_calls_of_somebody_else_are_closed_and_ones_own_go_on(visit: Visit) -> None:
    gus, hana = await crm(visit, "Gus", "Hana")
    await gus.page.evaluate("path => front.listen('theirs', path)", video_call("hana")["crm"])
    await gus.until("() => front.closed.theirs === 4403")
    call_id = await place(gus, hana)
    before = len(await gus.heard("pong", "crm"))
    await gus.settle()
    assert len(await gus.heard("pong", "crm")) == before + 1
    assert await gus.heard(on="theirs") == []
    assert await gus.page.evaluate("Object.keys(front.closed)") == ["theirs"]
    await gus.post(f"/calls/{call_id}/end/")
    await hana.told("call-ended", "crm")


# The social network


def chat(conversation_id: str) -> dict[str, str]:
    return {"chat": f"/ws/chat/{conversation_id}/"}


@pytest.mark.parametrize(
    ("caller", "callee", "sockets"),
    [
        ("Ida", "Jan", ["notifications", "chat"]),
        ("Kim", "Leo", ["notifications"]),
        ("Mia", "Ned", ["chat"]),
    ],
    ids=["both", "notifications", "chat"],
)
async def test_a_page_of_the_network_acts_once(
    visit: Visit, put: Put, caller: str, callee: str, sockets: list[str]
) -> None:
    """Everything comes on each socket of a page, under one id: it rings, is answered and ends once."""
    talk = f"{caller}-{callee}".lower()
    await put(talk, caller.lower(), callee.lower())
    every = NOTIFICATIONS | chat(talk)
    one, two = await both(visit(caller, every), visit(callee, {on: every[on] for on in sockets}))

    status, call = await one.post("/calls/initiate/", {"conversation_id": talk, "call_type": "voice"})
    assert (status, call["status"], call["call_type"]) == (201, "pending", "voice")
    where = {"conversation_id": talk, "call_id": call["id"]}
    for on in sockets:
        ring = (await two.told("call.incoming", on)).get("data", {})
        assert {name: ring[name] for name in where} == where
        assert (ring["call_type"], ring["from"], ring["from_name"]) == ("voice", one.user_id, caller)
        notification = await two.told("notification.created", on)
        assert notification.get("data") == {"verb": "incoming_voice_call", "data": where}
    assert await two.rings() == call["id"]

    await two.say(sockets[-1], "call.answer", call_id=call["id"])
    await two.told("call.answer.done", sockets[-1])
    for person, on in [(one, "notifications"), (one, "chat"), *((two, on) for on in sockets)]:
        answered = (await person.told("call.answered", on)).get("data", {})
        assert (answered["call_id"], answered["by"]) == (call["id"], two.user_id)
    assert await two.rings() is None

    await one.say("chat", "call.end", call_id=call["id"])
    for person, on in [(one, "notifications"), (one, "chat"), *((two, on) for on in sockets)]:
        ended = (await person.told("call.end", on)).get("data", {})
        assert (ended["call_id"], ended["conversation_id"], ended["reason"]) == (
            call["id"],
            talk,
            "completed",
        )

    await both(one.settle(), two.settle())
    for name in ("call.incoming", "notification.created", "call.answered", "call.end"):
        frames = await two.heard(name)
        assert sorted(f["on"] for f in frames) == sorted(sockets)
        assert len({f.get("event_id") for f in frames}) == 1
        assert await two.acts(name) == 1
    assert [await one.acts(n) for n in ("call.incoming", "call.answered", "call.end")] == [0, 1, 1]
    assert await one.heard("error") == await two.heard("error") == []


async def test_a_page_of_the_network_without_sockets_asks_what_rings(visit: Visit, put: Put) -> None:
    await put("olga-paul", "olga", "paul")
    olga, paul = await both(visit("Olga", NOTIFICATIONS | chat("olga-paul")), visit("Paul", {}))

    async def ring_state() -> list[tuple[str, str]]:
        status, found = await paul.get("/api/v1/calls/ring_state")
        assert status == 200
        return [(call["id"], call["status"]) for call in found["calls"]]

    assert await ring_state() == []
    body = {"conversation_id": "olga-paul", "call_type": "video"}
    _, call = await olga.post("/calls/initiate/", body)
    assert await ring_state() == [(call["id"], "ringing")]
    status, answered = await paul.post(f"/calls/{call['id']}/answer/")
    assert (status, answered["status"]) == (200, "active")
    assert (await olga.told("call.answered", "chat")).get("data", {})["by"] == "paul"
    assert await ring_state() == [(call["id"], "active")]
    await olga.say("notifications", "call.end", call_id=call["id"])
    await olga.told("call.end", "chat")
    assert await ring_state() == []
    assert await paul.heard() == []


async def test_pages_of_the_network_see_each_other_through_the_server(visit: Visit, put: Put) -> None:
    """Each offers to the server and has its answer: the caller while it rings, the callee when he took it."""
    await put("quinn-rosa", "quinn", "rosa")
    sockets = NOTIFICATIONS | chat("quinn-rosa")
    quinn, rosa = await both(visit("Quinn", sockets), visit("Rosa", sockets))
    body = {"conversation_id": "quinn-rosa", "call_type": "video"}
    _, call = await quinn.post("/calls/initiate/", body)
    where = {"conversation_id": "quinn-rosa", "call_id": call["id"]}
    for on in sockets:
        notification = await rosa.told("notification.created", on)
        assert notification.get("data") == {"verb": "incoming_video_call", "data": where}
    await quinn.page.evaluate("offer => front.offer(...offer)", ["chat", call["id"]])
    await quinn.told("call.answer", "chat")

    await rosa.post(f"/calls/{call['id']}/answer/")
    await quinn.told("call.answered", "notifications")
    await rosa.page.evaluate("offer => front.offer(...offer)", ["notifications", call["id"]])
    await rosa.told("call.answer", "notifications")

    await both(quinn.watches(20), rosa.watches(20))
    for person, on in ((quinn, "chat"), (rosa, "notifications")):
        (answer,) = await person.heard("call.answer")
        assert (answer["on"], answer.get("data", {})["call_id"]) == (on, call["id"])
        assert "a=ice-lite" in answer.get("data", {})["sdp"]

    status, ended = await rosa.post(f"/calls/{call['id']}/end/")
    assert (status, ended["status"]) == (200, "ended")
    for person in (quinn, rosa):
        ends = [await person.told("call.end", on) for on in sockets]
        assert [end.get("data", {})["reason"] for end in ends] == ["completed", "completed"]
        assert len({end.get("event_id") for end in ends}) == 1
        await person.settle()
        assert await person.acts("call.end") == 1
        assert await person.page.evaluate("front.ended") == call["id"]
        assert await person.heard("error") == []
