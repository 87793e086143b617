"""The REST interface: the acts of the socket, conversations, tokens, rooms, and what is refused."""

import asyncio
import os

import aiohttp
import pytest
import pytest_asyncio

from sfu.settings import Http, Media, Settings


class Rest:
    """Requests of one user."""

    def __init__(self, server, http, user, **grants):
        self._base = f"http://127.0.0.1:{server.http_port}/api"
        token = server.authority.mint(user, user.title(), grants=grants)
        self._http, self.headers = http, {"Authorization": f"Bearer {token}"}

    async def __call__(self, method, path, body=None, **options):
        """Return status and document."""
        options.setdefault("headers", self.headers)
        if body is not None:
            options["json"] = body
        async with self._http.request(method, self._base + path, **options) as response:
            if response.status == 204:
                return 204, None
            if response.status >= 400:
                assert response.content_type == "application/problem+json"
            document = await response.json(content_type=None)
            if response.status >= 400:
                assert document["status"] == response.status
                assert document["type"] == f"urn:sfu:error:{document['code']}"
            return response.status, document


@pytest_asyncio.fixture
async def rest(server):
    async with aiohttp.ClientSession() as http:
        yield lambda user, **grants: Rest(server, http, user, **grants)


async def place(rest, caller="ada", callee="bob", **more):
    status, call = await rest(caller)("POST", "/v1/calls/initiate", {"callee_ids": [callee], **more})
    assert status == 201
    return call


async def test_a_call_from_ring_to_end(rest, people):
    """Placed and answered over REST, told over the socket."""
    ada, bob = await people.client("ada"), await people.client("bob")
    call = await place(rest, call_type="voice", metadata={"ticket": 7})
    assert (call["status"], call["initiator_name"], call["metadata"]) == ("ringing", "Ada", {"ticket": 7})
    assert call["join"]["room_name"] == call["room_name"]
    assert "version" not in call
    incoming = await bob.wait_for("call.incoming")
    assert incoming["data"]["call"]["id"] == call["id"]
    status, state = await rest("bob")("GET", "/v1/calls/ring_state")
    assert (status, [c["id"] for c in state["calls"]]) == (200, [call["id"]])
    status, answered = await rest("bob")("POST", f"/v1/calls/{call['id']}/answer")
    assert (status, answered["status"]) == (200, "active")
    assert (await ada.wait_for("call.answered"))["data"]["by"] == "bob"
    status, again = await rest("bob")("POST", f"/v1/calls/{call['id']}/answer")
    assert (status, again["status"]) == (200, "active")
    status, ended = await rest("ada")("POST", f"/v1/calls/{call['id']}/end")
    assert (status, ended["end_reason"], ended["join"]) == (200, "completed", None)
    for client in (ada, bob):
        assert (await client.wait_for("call.ended"))["data"]["end_reason"] == "completed"
    status, refused = await rest("bob")("POST", f"/v1/calls/{call['id']}/answer")
    assert (status, refused["code"]) == (409, "invalid_state")
    status, timeline = await rest("ada")("GET", f"/v1/calls/{call['id']}/events")
    types = [event["type"] for event in timeline["events"]]
    assert types[0] == "call.incoming" and types[-1] == "call.ended"
    assert "call" not in timeline["events"][0]["data"]


@pytest.mark.parametrize(
    ("who", "act", "body", "reason"),
    [("bob", "reject", {"reason": "busy here"}, "rejected"), ("ada", "cancel", None, "cancelled")],
)
async def test_a_call_that_comes_to_nothing(rest, who, act, body, reason):
    call = await place(rest)
    status, ended = await rest(who)("POST", f"/v1/calls/{call['id']}/{act}", body)
    assert (status, ended["status"], ended["end_reason"]) == (200, "ended", reason)


async def test_people_are_invited_leave_and_are_sent_away(rest):
    call = await place(rest)
    of = f"/v1/calls/{call['id']}"
    await rest("bob")("POST", of + "/answer")
    status, invited = await rest("ada")("POST", of + "/participants", {"user_ids": ["eve", "dan"]})
    assert (status, len(invited["participants"])) == (200, 4)
    status, _ = await rest("eve")("POST", of + "/answer")
    status, refused = await rest("dan")("DELETE", of + "/participants/eve")
    assert (status, refused["code"]) == (409, "invalid_state")
    for user, state in (("dan", "missed"), ("eve", "left")):
        status, removed = await rest("ada")("DELETE", f"{of}/participants/{user}")
        assert status == 200
        assert next(p["state"] for p in removed["participants"] if p["user_id"] == user) == state
    status, refused = await rest("ada")("DELETE", of + "/participants/nobody")
    assert (status, refused["code"]) == (404, "participant_not_found")
    status, left = await rest("ada")("POST", of + "/leave")
    assert (status, left["status"]) == (200, "active")


async def test_a_request_repeated_makes_no_second_call(rest):
    """Under its key, at once and later; somebody else's key is his own."""
    body = {"callee_ids": ["bob"], "idempotency_key": "k"}
    ada = rest("ada")
    answers = await asyncio.gather(*(ada("POST", "/v1/calls/initiate", body) for _ in range(5)))
    assert len({call["id"] for _, call in answers}) == 1
    _, again = await ada("POST", "/v1/calls/initiate", body)
    assert again["id"] == answers[0][1]["id"]
    _, other = await rest("eve")("POST", "/v1/calls/initiate", body)
    assert other["id"] != again["id"]


async def test_history_page_by_page(rest):
    """Everybody his own, the newest first; others' with the admin grant."""
    calls = [await place(rest, callee=f"user{number}") for number in range(5)]
    seen, cursor = [], None
    while True:
        query = {"limit": "2", **({"cursor": cursor} if cursor else {})}
        status, page = await rest("ada")("GET", "/v1/calls", params=query)
        assert status == 200
        seen += [call["id"] for call in page["calls"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == [call["id"] for call in reversed(calls)] or sorted(seen) == sorted(c["id"] for c in calls)
    _, mine = await rest("user3")("GET", "/v1/calls", params={"state": "ringing"})
    assert [call["id"] for call in mine["calls"]] == [calls[3]["id"]]
    _, none = await rest("user3")("GET", "/v1/calls", params={"since": "2999-01-01T00:00:00Z"})
    assert none == {"calls": [], "next_cursor": None}
    status, refused = await rest("user3")("GET", "/v1/calls", params={"user": "ada"})
    assert (status, refused["code"]) == (403, "not_allowed")
    _, all_of_hers = await rest("boss", admin=True)("GET", "/v1/calls", params={"user": "ada"})
    assert len(all_of_hers["calls"]) == 5


async def test_conversations_say_who_may_call_whom(rest, people):
    """A call in one rings the others in it, and nobody else may place it."""
    boss = rest("boss", admin=True)
    talk = "/v1/conversations/talk-7"
    people_in = {"participants": ["ada", "bob", "eve", "ada"], "title": "Deal"}
    assert (await boss("PUT", talk, people_in))[0] == 201
    status, kept = await boss("PUT", talk, people_in)
    assert (status, kept) == (200, {"id": "talk-7", "participants": ["ada", "bob", "eve"], "title": "Deal"})
    bob = await people.client("bob")
    status, call = await rest("ada")("POST", "/v1/calls/initiate", {"conversation_id": "talk-7"})
    assert (status, [p["user_id"] for p in call["participants"]]) == (201, ["ada", "bob", "eve"])
    assert (await bob.wait_for("call.incoming"))["data"]["call"]["conversation_id"] == "talk-7"
    for user, body, expected in (
        ("dan", {"conversation_id": "talk-7"}, (404, "conversation_not_found")),
        ("ada", {"conversation_id": "nothing"}, (404, "conversation_not_found")),
        ("ada", {"conversation_id": "talk-7", "callee_ids": ["dan"]}, (403, "not_in_conversation")),
    ):
        status, refused = await rest(user)("POST", "/v1/calls/initiate", body)
        assert (status, refused["code"]) == expected
    assert (await rest("bob")("GET", talk))[0] == 200
    assert (await rest("dan")("GET", talk))[0] == 404
    assert (await rest("bob")("DELETE", talk))[0] == 403
    assert (await boss("DELETE", talk)) == (204, None)
    assert (await boss("DELETE", talk))[0] == 404


async def test_tokens_are_minted_for_others(rest, people, server):
    """By who has the admin grant; with the grants of the protocol and no others."""
    boss = rest("boss", admin=True)
    status, made = await boss(
        "POST", "/v1/tokens", {"user_id": "ada", "name": "Ada L.", "grants": {"room": "r"}}
    )
    assert status == 201
    identity = server.authority.verify(made["token"])
    assert (identity.user_id, identity.name, identity.grants.room) == ("ada", "Ada L.", "r")
    status, refused = await boss("POST", "/v1/tokens", {"user_id": "ada", "grants": {"root": True}})
    assert (status, refused["code"]) == (400, "bad_request")
    assert (await rest("ada")("POST", "/v1/tokens", {"user_id": "ada"}))[0] == 403


async def test_rooms_are_looked_at(rest):
    """An empty server has none."""
    boss = rest("boss", admin=True)
    assert await boss("GET", "/v1/rooms") == (200, {"rooms": []})
    assert (await boss("GET", "/v1/rooms/x"))[1]["code"] == "room_not_found"
    assert (await boss("POST", "/v1/rooms/x/participants/y/mute"))[0] == 404
    assert (await rest("ada")("GET", "/v1/rooms"))[0] == 403


@pytest.mark.parametrize(
    ("method", "path", "options", "expected"),
    [
        ("GET", "/v1/calls/call_none", {}, (404, "call_not_found")),
        ("GET", "/v1/calls", {"headers": {}}, (401, "not_authenticated")),
        ("GET", "/v1/calls", {"headers": {"Authorization": "Bearer x"}}, (401, "not_authenticated")),
        ("GET", "/v1/calls", {"params": {"limit": "0"}}, (400, "bad_request")),
        ("GET", "/v1/calls", {"params": {"cursor": "%%%"}}, (400, "bad_cursor")),
        ("GET", "/v1/nothing", {}, (404, "not_found")),
        ("PATCH", "/v1/calls", {}, (405, "method_not_allowed")),
        ("POST", "/v1/calls/initiate", {"data": b"{"}, (400, "bad_request")),
        ("POST", "/v1/calls/initiate", {"json": {"callee_ids": []}}, (400, "no_callees")),
        ("POST", "/v1/calls/initiate", {"json": {"callee_ids": ["b"], "colour": 1}}, (400, "bad_request")),
        ("POST", "/v1/calls/initiate", {"json": {"callee_ids": ["a\u0000b"]}}, (400, "bad_request")),
        ("POST", "/v1/calls/initiate", {"data": b'"' + b"x" * 70_000 + b'"'}, (413, "too_large")),
    ],
)
async def test_what_is_refused(rest, method, path, options, expected):
    """With a problem document that says why."""
    status, document = await rest("ada")(method, path, **options)
    assert (status, document["code"]) == expected
    assert document["detail"].endswith(".")


async def test_a_call_is_no_business_of_strangers(rest):
    """There is none for them; the admin grant sees it."""
    call = await place(rest)
    for method, act in (("GET", ""), ("POST", "/end"), ("GET", "/events"), ("POST", "/answer")):
        status, refused = await rest("eve")(method, f"/v1/calls/{call['id']}{act}")
        assert (status, refused["code"]) == (404, "call_not_found")
    assert (await rest("boss", admin=True)("GET", f"/v1/calls/{call['id']}"))[0] == 200


async def test_a_token_without_calls_places_none(rest):
    status, refused = await rest("ada", calls=False)("POST", "/v1/calls/initiate", {"callee_ids": ["bob"]})
    assert (status, refused["code"]) == (403, "not_allowed")


@pytest.mark.parametrize(
    "settings",
    [Settings(http=Http(port=0, requests_per_minute=5), media=Media(udp_port=0, tcp_port=0))],
)
async def test_who_asks_too_often_is_told(rest):
    """Others are not touched."""
    ada = rest("ada")
    for _ in range(5):
        assert (await ada("GET", "/v1/calls"))[0] == 200
    status, refused = await ada("GET", "/v1/calls")
    assert (status, refused["code"], refused["retryable"]) == (429, "rate_limited", True)
    assert (await rest("bob")("GET", "/v1/calls"))[0] == 200


async def test_where_nothing_is_recorded_no_ticket_holds_and_no_key_is_made(rest, server):
    status, problem = await rest("ada")("GET", "/v1/recordings/rec_1/files/a.mkv?ticket=x")
    assert (status, problem["code"]) == (404, "recording_not_found")
    assert "signing.pem" not in os.listdir()


async def test_the_document_describes_what_there_is(rest, server):
    """OpenAPI 3.1, each operation with its problem documents."""
    status, document = await rest("ada")("GET", "/openapi.json")
    assert (status, document["openapi"]) == (200, "3.1.0")
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations) == 36
    assert all("default" in operation["responses"] for operation in operations)


async def test_pages_of_other_origins_may_import_the_client(server):
    """And nothing else: what is not a module is theirs only through their own server."""
    async with aiohttp.ClientSession() as http:
        for path, allowed in (("/sfu-client.js", "*"), ("/", None), ("/api/openapi.json", None)):
            async with http.get(f"http://127.0.0.1:{server.http_port}{path}") as response:
                assert response.status == 200
                assert response.headers.get("Access-Control-Allow-Origin") == allowed
