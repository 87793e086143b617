"""The pages, the token that opens the socket, and the webhook."""

from typing import Any

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import User
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseBadRequest,
    HttpResponseForbidden,
    JsonResponse,
)
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

from calls.models import CallRecord
from calls.webhook import NotAnEvent, is_signed, keep, read
from sfu.auth import mint

MAX_LISTED = 200
CALLS_ON_A_PAGE = 20


@login_required
@require_GET
def people(request: HttpRequest) -> HttpResponse:
    """Show everybody else, with buttons to call them."""
    active = User.objects.filter(is_active=True).order_by("first_name", "username")[:MAX_LISTED]
    listed = [{"id": str(user.pk), "name": _name(user)} for user in active if user != request.user]
    return render(request, "calls/people.html", {"people": listed})


@login_required
@require_GET
def call(request: HttpRequest) -> HttpResponse:
    """Show the call that goes on; the script of the base template brings it here."""
    return render(request, "calls/call.html")


@login_required
@require_GET
def history(request: HttpRequest) -> HttpResponse:
    """Show the user's calls, the newest first."""
    user_id = str(request.user.pk)
    page = Paginator(_calls_of(user_id), CALLS_ON_A_PAGE).get_page(request.GET.get("page"))
    rows = [_row(record, user_id) for record in page]
    return render(request, "calls/history.html", {"page": page, "rows": rows})


@login_required
@require_GET
@never_cache
def history_json(request: HttpRequest) -> JsonResponse:
    """Return the user's newest calls."""
    found = _calls_of(str(request.user.pk))[:CALLS_ON_A_PAGE]
    return JsonResponse({"calls": [record.as_json() for record in found]})


@require_GET
@never_cache
def token(request: HttpRequest) -> JsonResponse:
    """Return what opens the socket of the calls server for whoever is logged in."""
    user = request.user
    if not isinstance(user, User):
        return JsonResponse({"error": "Log in first."}, status=401)
    return JsonResponse({"token": mint(str(user.pk), secret=settings.SFU_SECRET, name=_name(user))})


# No browser posts here: instead of a CSRF token there is a signature over the bytes and the time.
@csrf_exempt
@require_POST
def webhook(request: HttpRequest) -> HttpResponse:
    """Keep what the calls server tells."""
    signature = request.headers.get("Sfu-Signature", "")
    if not is_signed(signature, request.body, settings.WEBHOOK_SECRET, timezone.now().timestamp()):
        return HttpResponseForbidden("The signature does not hold.", content_type="text/plain")
    try:
        account = read(request.body)
    except NotAnEvent:
        return HttpResponseBadRequest("The event cannot be read.", content_type="text/plain")
    if account is not None:
        keep(account)
    return HttpResponse(status=204)


def _name(user: User) -> str:
    return user.get_full_name() or user.get_username()


def _calls_of(user_id: str) -> QuerySet[CallRecord]:
    mine = CallRecord.objects.filter(participants__user_id=user_id)
    return mine.prefetch_related("participants")


def _row(record: CallRecord, user_id: str) -> dict[str, Any]:
    others = [p.name for p in record.participants.all() if p.user_id != user_id]
    return {
        "call": record,
        "names": ", ".join(others) or "Nobody else",
        "placed": record.initiator == user_id,
        "outcome": record.outcome_for(user_id),
        "missed": record.initiator != user_id and record.state == "ended" and record.answered_at is None,
    }
