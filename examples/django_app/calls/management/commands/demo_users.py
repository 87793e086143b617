"""`manage.py demo_users`: three people to try the site with."""

from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError, CommandParser

USERS = {"alice": ("Alice", "Moreau"), "bob": ("Bob", "Lindqvist"), "carol": ("Carol", "Okafor")}
DEVELOPMENT_PASSWORD = "demo"


class Command(BaseCommand):
    """Make the demo users, or give them their password again."""

    help = "Makes alice, bob and carol."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--password", default="", help="Their password; needed outside development.")

    def handle(self, *_: Any, **options: Any) -> None:
        password = options["password"] or (DEVELOPMENT_PASSWORD if settings.DEVELOPMENT else "")
        if not password:
            raise CommandError("Outside development the demo users need --password.")
        for username, (first, last) in USERS.items():
            user, _made = User.objects.get_or_create(
                username=username, defaults={"first_name": first, "last_name": last}
            )
            user.set_password(password)
            user.save()
        self.stdout.write(f"Users: {', '.join(USERS)}.")
