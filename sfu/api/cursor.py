"""Where a page of what is listed newest first ended: its last (created_at, id), as a client hands it back."""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from sfu.errors import BadRequest


def to_cursor(document: Mapping[str, Any]) -> str:
    """Return what asks for the page behind a document that has `created_at` and `id`."""
    text = f"{document['created_at']} {document['id']}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def from_cursor(cursor: str) -> tuple[str, str]:
    """Return the (created_at, id) in a cursor.

    Raises:
        BadRequest: it is none that was given out.

    """
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        created_at, last_id = text.split(" ")
    except (ValueError, binascii.Error) as error:
        raise BadRequest("cursor: it is none that was given out.", code="bad_cursor") from error
    if "\x00" in text:
        raise BadRequest("cursor: it is none that was given out.", code="bad_cursor")
    return created_at, last_id
