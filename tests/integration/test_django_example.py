"""The Django site of `examples/django_app` and a real server: login, token, socket, calls, webhook, pages."""

import asyncio
import hashlib
import hmac
import json
import os
import re
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect
from yarl import URL

from sfu.auth import mint
from sfu.bot.client import Client
from sfu.clock import unix_seconds
from tests.support.browser import chromium
from tests.support.process import ServerProcess, server_process

pytest.importorskip("django", reason="Django is missing: pip install 'django>=5.2,<6'")
pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).resolve().parents[2]
APP = ROOT / "examples" / "django_app"
TOKEN_SECRET = "the server and the site know this one"
WEBHOOK_SECRET = "and what the server tells is signed with this"
PATIENCE_S = 10.0
PATIENCE_MS = PATIENCE_S * 1000
POLL_S = 0.05


@dataclass
class Site:
    """The running site, and the server beside it."""

    url: str
    server: ServerProcess


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


async def manage(environment: dict[str, str], *command: str) -> asyncio.subprocess.Process:
    """Begin a command of the site."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("manage.py", *command),
        cwd=APP,
        env=environment,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )


async def run(environment: dict[str, str], *command: str) -> None:
    process = await manage(environment, *command)
    _, told = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0, told.decode()


@asynccontextmanager
async def running(environment: dict[str, str], port: int) -> AsyncIterator[None]:
    """Run the site; it is there when it answers."""
    process = await manage(environment, "runserver", f"127.0.0.1:{port}", "--noreload")
    assert process.stderr is not None
    told = asyncio.create_task(process.stderr.read())
    try:
        async with asyncio.timeout(20):
            while not await listens(port):
                assert process.returncode is None, (await told).decode()
                await asyncio.sleep(POLL_S)
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        assert "Traceback" not in (await told).decode(), (await told).decode()


async def listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """Do what the README says: migrate, demo users, the server, the webhook, the site."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    async with server_process(
        SFU_AUTH__SECRET=TOKEN_SECRET, SFU_HTTP__ALLOWED_ORIGINS=json.dumps([url])
    ) as server:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "EXAMPLE_DEVELOPMENT": "1",
            "EXAMPLE_DATABASE": str(tmp_path_factory.mktemp("site") / "example.db"),
            "EXAMPLE_SITE_URL": url,
            "EXAMPLE_SFU_URL": server.url,
            "EXAMPLE_WEBHOOK_SECRET": WEBHOOK_SECRET,
            "SFU_AUTH__SECRET": TOKEN_SECRET,
        }
        await run(environment, "migrate", "--verbosity", "0")
        await run(environment, "demo_users")
        await run(environment, "add_webhook")
        async with running(environment, port):
            yield Site(url, server)


class Visitor:
    """Somebody who is logged in, without a browser."""

    def __init__(self, site: Site, http: aiohttp.ClientSession) -> None:
        self._site, self.http = site, http

    @classmethod
    @asynccontextmanager
    async def named(cls, site: Site, username: str, password: str = "demo") -> AsyncIterator["Visitor"]:
        jar = aiohttp.CookieJar(unsafe=True)
        async with aiohttp.ClientSession(site.url, cookie_jar=jar) as http:
            visitor = cls(site, http)
            async with http.get("/login/") as page:
                found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', await page.text())
            assert found is not None
            form = {"csrfmiddlewaretoken": found[1], "username": username, "password": password}
            async with http.post("/login/", data=form) as page:
                assert page.status == 200
            yield visitor

    async def token(self) -> str:
        async with self.http.get("/calls/token/") as response:
            assert response.status == 200
            assert "no-store" in response.headers["Cache-Control"]
            return str((await response.json())["token"])

    @asynccontextmanager
    async def socket(self) -> AsyncIterator[Client]:
        """The socket that each page keeps open."""
        async with Client(self._site.server.ws_url, await self.token()) as client:
            yield client

    async def history(self) -> list[dict[str, Any]]:
        async with self.http.get("/history.json") as response:
            return list((await response.json())["calls"])

    async def finds(self, call_id: str, state: str) -> dict[str, Any]:
        """Wait until a call stands so in the history."""
        calls: list[dict[str, Any]] = []
        async with asyncio.timeout(PATIENCE_S):
            while True:
                calls = await self.history()
                for call in calls:
                    if call["call_id"] == call_id and call["state"] == state:
                        return call
                await asyncio.sleep(POLL_S)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def alice(site: Site) -> AsyncIterator[Visitor]:
    async with Visitor.named(site, "alice") as visitor:
        yield visitor


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bob(site: Site) -> AsyncIterator[Visitor]:
    async with Visitor.named(site, "bob") as visitor:
        yield visitor


async def talk(alice: Client, bob: Client) -> str:
    """Place a call, answer it, end it."""
    bob_id = bob.connected["user_id"]
    call = (await alice.request("call.initiate", {"callee_ids": [bob_id], "call_type": "voice"}))["call"]
    await bob.wait_for("call.incoming", lambda data: data["call"]["id"] == call["id"])
    await bob.request("call.answer", {"call_id": call["id"]})
    await alice.request("call.end", {"call_id": call["id"]})
    return str(call["id"])


def told(call_id: str, state: str, seq: int, *, at: str, **fields: Any) -> dict[str, Any]:
    """An event of a call between alice and bob, as the server tells it."""
    call = {
        "id": call_id,
        "call_type": "video",
        "status": state,
        "initiator": "1",
        "created_at": "2026-01-02T03:04:05.000Z",
        "answered_at": None,
        "ended_at": None,
        "end_reason": None,
        "participants": [
            {"user_id": "1", "name": "Alice Moreau", "state": "answered"},
            {"user_id": "2", "name": "Bob Lindqvist", "state": "ringing"},
        ],
        **fields,
    }
    event = {"webhook_id": "w", "seq": seq, "event_id": f"e{seq}", "type": "call.updated", "created_at": at}
    return {**event, "data": {"call": call}}


async def deliver(
    site: Site, event: Any, *, secret: str = WEBHOOK_SECRET, age_s: int = 0, header: str | None = None
) -> int:
    """Post to the webhook of the site; return how it answered."""
    body = event if isinstance(event, bytes) else json.dumps(event).encode()
    at = int(unix_seconds()) - age_s
    digest = hmac.new(secret.encode(), b"%d." % at + body, hashlib.sha256).hexdigest()
    headers = {"Sfu-Signature": header if header is not None else f"t={at},v1={digest}"}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{site.url}/calls/webhook/", data=body, headers=headers) as response,
    ):
        return response.status


async def test_whoever_is_logged_in_gets_a_token_that_opens_the_socket(site: Site, alice: Visitor) -> None:
    async with alice.socket() as client:
        assert client.connected["user_id"] == "1"
    async with aiohttp.ClientSession(site.url) as stranger:
        async with stranger.get("/calls/token/") as response:
            assert response.status == 401
        for page in ("/", "/call/", "/history/", "/history.json"):
            async with stranger.get(page, allow_redirects=False) as response:
                assert response.status == 302 and response.headers["Location"].startswith("/login/")


async def test_a_wrong_password_lets_nobody_in(site: Site) -> None:
    async with Visitor.named(site, "alice", "guessed") as guest, guest.http.get("/calls/token/") as response:
        assert response.status == 401


async def test_a_form_without_its_csrf_token_is_refused(site: Site) -> None:
    async with (
        aiohttp.ClientSession(site.url) as http,
        http.post("/login/", data={"username": "alice", "password": "demo"}) as response,
    ):
        assert response.status == 403


async def test_a_page_allows_no_script_but_its_own_and_the_servers(site: Site, alice: Visitor) -> None:
    async with alice.http.get("/") as page:
        policy, text = page.headers["Content-Security-Policy"], await page.text()
    assert f"script-src 'self' {site.server.url};" in policy and "unsafe" not in policy
    assert not re.search(r"<script(?![^>]* src=)|\son\w+=|style=", text)
    assert TOKEN_SECRET not in text and WEBHOOK_SECRET not in text


async def test_a_call_comes_into_the_history_of_those_who_were_in_it(
    site: Site, alice: Visitor, bob: Visitor
) -> None:
    async with alice.socket() as of_alice, bob.socket() as of_bob:
        call_id = await talk(of_alice, of_bob)
    call = await alice.finds(call_id, "ended")
    assert (call["call_type"], call["initiator"], call["end_reason"]) == ("voice", "1", "completed")
    assert call["started_at"] <= call["answered_at"] <= call["ended_at"]
    assert [(p["user_id"], p["name"], p["state"]) for p in call["participants"]] == [
        ("1", "Alice Moreau", "left"),
        ("2", "Bob Lindqvist", "left"),
    ]
    assert await bob.finds(call_id, "ended") == call
    async with bob.http.get("/history/") as page:
        assert f'data-call-id="{call_id}"' in await page.text()
    async with Visitor.named(site, "carol") as carol:
        assert await carol.history() == []


async def test_a_delivery_that_is_not_signed_or_old_is_refused(site: Site, alice: Visitor) -> None:
    """It changes nothing, whatever it says."""
    event = told("forged", "ringing", 1, at="2026-01-02T03:04:05.000Z")
    before = await alice.history()
    assert await deliver(site, event, secret="a guess") == 403
    assert await deliver(site, event, age_s=310) == 403
    assert await deliver(site, event, age_s=-310) == 403
    for header in ("", "t=1", "nonsense", f"t={'9' * 400},v1={'0' * 64}", "t=1,v1=é"):
        assert await deliver(site, event, header=header) == 403
    assert await deliver(site, b"{") == 400
    assert await deliver(site, {"type": "call.ended", "data": {"call": {"id": 1}}}) == 400
    async with alice.http.get("/calls/webhook/") as response:
        assert response.status == 405
    assert await alice.history() == before
    assert await deliver(site, event) == 204
    await alice.finds("forged", "ringing")


async def test_an_event_of_something_else_is_taken_and_passed_over(site: Site) -> None:
    assert await deliver(site, {"type": "room.closed", "seq": 1, "data": {}}) == 204


async def test_told_twice_or_in_another_order_the_record_is_the_same(site: Site, alice: Visitor) -> None:
    answered = {"answered_at": "2026-01-02T03:04:09.000Z"}
    over = {**answered, "ended_at": "2026-01-02T03:05:00.000Z", "end_reason": "completed"}
    ringing = told("late", "ringing", 7, at="2026-01-02T03:04:05.000Z")
    active = told("late", "active", 8, at="2026-01-02T03:04:09.000Z", **answered)
    ended = told("late", "ended", 9, at="2026-01-02T03:05:00.000Z", **over)
    assert await deliver(site, active) == 204
    assert (await alice.finds("late", "active"))["ended_at"] is None
    assert await deliver(site, ringing) == 204
    assert (await alice.finds("late", "active"))["answered_at"] == "2026-01-02T03:04:09Z"
    assert await deliver(site, ended) == 204
    whole = await alice.history()
    for event in (ended, ringing, active, ended):
        assert await deliver(site, event) == 204
    assert await alice.history() == whole
    assert len([call for call in whole if call["call_id"] == "late"]) == 1


async def test_deliveries_of_one_call_at_the_same_time_keep_the_last(site: Site, alice: Visitor) -> None:
    events = [told("crowd", "active", seq, at="2026-01-02T03:04:09.000Z") for seq in range(1, 9)]
    last = told("crowd", "ended", 9, at="2026-01-02T03:04:09.000Z", end_reason="completed")
    statuses = await asyncio.gather(*(deliver(site, event) for event in [last, *events, last]))
    assert set(statuses) == {204}
    await alice.finds("crowd", "ended")


async def test_what_the_server_delivers_again_changes_nothing(
    site: Site, alice: Visitor, bob: Visitor
) -> None:
    """A replay of everything that it keeps, and then something new behind it."""
    async with alice.socket() as of_alice, bob.socket() as of_bob:
        await alice.finds(await talk(of_alice, of_bob), "ended")
        before = await alice.history()
        await replay(site.server)
        # Deliveries keep their order: when this one has come, the replay is over.
        await alice.finds(await talk(of_alice, of_bob), "ended")
    assert (await alice.history())[1:] == before


async def replay(server: ServerProcess) -> None:
    """Have the server deliver everything again."""
    token = mint("test", secret=TOKEN_SECRET, grants={"admin": True})
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(server.url, headers=headers) as http:
        async with http.get("/api/v1/webhooks") as response:
            (hook,) = (await response.json())["webhooks"]
        async with http.post(f"/api/v1/webhooks/{hook['id']}/replay", json={}) as response:
            assert (await response.json())["deliveries"] > 0


# In Chromium.


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


@asynccontextmanager
async def window(browser: Browser, site: Site, visitor: Visitor) -> AsyncIterator[Page]:
    """A browser in which somebody is logged in; no page in it may report an error."""
    context = await browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(PATIENCE_MS)
    cookies = visitor.http.cookie_jar.filter_cookies(URL(site.url))
    await context.add_cookies([{"name": n, "value": c.value, "url": site.url} for n, c in cookies.items()])
    page = await context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda line: faults.append(line.text) if line.type == "error" else None)
    await page.goto(site.url)
    yield page
    await context.close()
    assert not faults, faults


async def sees(page: Page, user_id: str) -> None:
    """See moving pictures of somebody."""
    await page.wait_for_function(
        """user => {
             const tile = document.querySelector(`[data-tile][data-user="${user}"]`);
             const video = tile?.querySelector("video");
             return Boolean(video && "video" in tile.dataset && video.videoWidth > 0 && !video.paused);
           }""",
        arg=user_id,
    )


async def keep_picture(page: Page, name: str) -> None:
    """Keep a picture where somebody asked for them."""
    if directory := os.environ.get("EXAMPLE_PICTURES"):
        await page.screenshot(path=str(Path(directory) / f"{name}.png"))


async def test_a_call_in_chromium_from_ring_to_history(
    browser: Browser, site: Site, alice: Visitor, bob: Visitor
) -> None:
    """Bob looks at the history when alice calls; they see each other on every page; the history has it."""
    async with window(browser, site, alice) as hers, window(browser, site, bob) as his:
        await his.get_by_role("link", name="History").click()
        await expect(his.get_by_role("heading", name="History")).to_be_visible(timeout=PATIENCE_MS)
        await expect(hers.locator('[data-person="2"][data-online]')).to_be_visible(timeout=PATIENCE_MS)
        await keep_picture(hers, "people")
        await hers.get_by_role("button", name="Video call with Bob Lindqvist").click()

        await expect(his.locator("#incoming-from")).to_have_text("Alice Moreau", timeout=PATIENCE_MS)
        await expect(his.locator("#incoming")).to_be_visible(timeout=PATIENCE_MS)
        await expect(hers.locator("#call-status")).to_have_text("Ringing…", timeout=PATIENCE_MS)
        await keep_picture(his, "incoming")
        await keep_picture(hers, "outgoing")
        await his.get_by_role("button", name="Answer").click()
        await his.wait_for_url("**/call/")
        for page in (hers, his):
            await sees(page, "1")
            await sees(page, "2")
        await keep_picture(hers, "call")

        await his.get_by_role("link", name="History").click()
        await his.wait_for_url("**/history/")
        await sees(his, "1")
        await sees(hers, "2")
        await keep_picture(his, "corner")
        await hers.get_by_role("button", name="Hang up").click()
        await expect(his.locator("#call-window")).to_be_hidden(timeout=PATIENCE_MS)
        await expect(hers.locator("#no-call")).to_be_visible(timeout=PATIENCE_MS)
        row = his.locator("#history [data-call-id]").first
        await expect(row).to_have_attribute("data-state", "ended", timeout=PATIENCE_MS)
        await expect(row).to_contain_text("Alice Moreau", timeout=PATIENCE_MS)
        await expect(row).to_contain_text("Incoming video call", timeout=PATIENCE_MS)
        await keep_picture(his, "history")


async def test_a_call_that_is_declined_or_given_up_ends_everywhere(
    browser: Browser, site: Site, alice: Visitor, bob: Visitor
) -> None:
    async with window(browser, site, alice) as hers, window(browser, site, bob) as his:
        second = await his.context.new_page()
        await second.goto(f"{site.url}/history/")
        call = hers.get_by_role("button", name="Voice call with Bob Lindqvist")
        await call.click()
        for page in (his, second):
            await expect(page.locator("#incoming")).to_be_visible(timeout=PATIENCE_MS)
        await second.get_by_role("button", name="Decline").click()
        for page in (his, second):
            await expect(page.locator("#incoming")).to_be_hidden(timeout=PATIENCE_MS)
        await expect(hers.locator("#notice")).to_have_text("Bob Lindqvist declined", timeout=PATIENCE_MS)
        await hers.locator("#no-call").get_by_role("link", name="People").click()
        await call.click()
        await expect(his.locator("#incoming")).to_be_visible(timeout=PATIENCE_MS)
        await hers.get_by_role("button", name="Hang up").click()
        await expect(his.locator("#incoming")).to_be_hidden(timeout=PATIENCE_MS)
        await expect(his.locator("#notice")).to_have_text(
            "Alice Moreau cancelled the call", timeout=PATIENCE_MS
        )
