"""What a page of this site may load, and from where."""

from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse

Handler = Callable[[HttpRequest], HttpResponse]


def content_policy(get_response: Handler) -> Handler:
    """Add the headers that let pages use the calls server, camera and microphone, and nothing else."""
    sfu = settings.SFU_URL
    socket = sfu.replace("http", "ws", 1)
    policy = (
        f"default-src 'self'; script-src 'self' {sfu}; connect-src 'self' {sfu} {socket}; "
        "media-src 'self' blob: mediastream:; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
        "form-action 'self'; frame-ancestors 'none'"
    )

    def handle(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response.headers.setdefault("Content-Security-Policy", policy)
        response.headers.setdefault("Permissions-Policy", "camera=(self), microphone=(self)")
        return response

    return handle
