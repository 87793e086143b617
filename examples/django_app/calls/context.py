"""What every template may use."""

from django.conf import settings
from django.http import HttpRequest


def calls_server(_: HttpRequest) -> dict[str, str]:
    """Return where pages find the calls server. No secret belongs here."""
    return {"sfu_url": settings.SFU_URL}
