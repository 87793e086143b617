"""`manage.py demo`: everything at once on this machine, until Ctrl-C."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError

START_S = 20.0


class Command(BaseCommand):
    """Database, demo users, calls server, webhook, site."""

    help = "Runs the calls server and this site, with demo users. Development only."

    def handle(self, *_: Any, **__: Any) -> None:
        if not settings.DEVELOPMENT:
            raise CommandError("The demo is for development: set EXAMPLE_DEVELOPMENT=1.")
        signal.signal(signal.SIGTERM, _stop)
        call_command("migrate", verbosity=0)
        call_command("demo_users")
        site = urlsplit(settings.SITE_URL)
        with calls_server():
            call_command("add_webhook")
            self.stdout.write(f"\n  Open {settings.SITE_URL}/ in two browsers. The password is: demo\n\n")
            call_command("runserver", f"{site.hostname}:{site.port or 80}", "--noreload")


def _stop(_number: int, _frame: object) -> NoReturn:
    sys.exit(0)


def server_environment() -> dict[str, str]:
    """Return the settings of a calls server for this site; those in the environment win."""
    sfu, site = urlsplit(settings.SFU_URL), urlsplit(settings.SITE_URL)
    origins = {settings.SITE_URL, f"{site.scheme}://localhost:{site.port or 80}"}
    mine = {
        "SFU_HTTP__HOST": sfu.hostname or "127.0.0.1",
        "SFU_HTTP__PORT": str(sfu.port or 80),
        "SFU_HTTP__ALLOWED_ORIGINS": json.dumps(sorted(origins)),
        "SFU_AUTH__SECRET": settings.SFU_SECRET,
        "SFU_MEDIA__LISTEN_IP": "127.0.0.1",
        "SFU_WEBHOOKS__ALLOW_PRIVATE": "true",
        "SFU_STORE__URL": f"sqlite+aiosqlite:///{settings.BASE_DIR / 'sfu.db'}",
        "SFU_LOG__LEVEL": "warning",
    }
    return {**mine, **os.environ}


@contextmanager
def calls_server() -> Iterator[None]:
    """Run `sfu serve` beside the site."""
    process = subprocess.Popen([sys.executable, "-m", "sfu", "serve"], env=server_environment())
    try:
        _wait_until_ready(process)
        yield
    finally:
        process.terminate()
        process.wait()


def _wait_until_ready(process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urlopen(f"{settings.SFU_URL}/readyz", timeout=1):
                return
        except (URLError, TimeoutError):
            time.sleep(0.1)
    raise CommandError("The calls server did not start; it said why above.")
