"""`manage.py add_webhook`: have the calls server tell this site what happens to calls."""

import json
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.urls import reverse

from sfu.auth import mint

TIMEOUT_S = 10


class Command(BaseCommand):
    """Add the webhook once; a second time it is found there."""

    help = "Asks the calls server to tell this site what happens to calls."

    def handle(self, *_: Any, **__: Any) -> None:
        url = settings.SITE_URL + reverse("calls-webhook")
        known = ask("GET", "/webhooks")["webhooks"]
        if any(webhook["url"] == url for webhook in known):
            self.stdout.write(f"The calls server knows {url} already.")
            return
        ask("POST", "/webhooks", {"url": url, "secret": settings.WEBHOOK_SECRET})
        self.stdout.write(f"The calls server tells {url} from now on.")


def ask(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Send a request to the REST interface of the calls server, as its administrator."""
    token = mint("example-site", secret=settings.SFU_SECRET, grants={"admin": True}, ttl_s=60)
    request = Request(
        f"{settings.SFU_URL}/api/v1{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    try:
        with urlopen(request, timeout=TIMEOUT_S) as response:
            return json.load(response)
    except HTTPError as error:
        raise CommandError(f"{request.full_url} answered {error.code}: {error.read()[:500]!r}") from error
    except URLError as error:
        raise CommandError(f"{request.full_url}: {error.reason}. Is the calls server running?") from error
