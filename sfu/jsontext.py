"""JSON as text, written fast: documents of calls go to every socket and into the store."""

import json
from typing import Any, TypeVar

from pydantic_core import PydanticSerializationError, to_json

ValueT = TypeVar("ValueT")


def write(value: Any) -> str:
    """Return a value of JSON's types as text without spaces; NaN and infinities as JavaScript writes them."""
    try:
        return to_json(value, inf_nan_mode="constants").decode()
    except (PydanticSerializationError, UnicodeError):  # half of a surrogate pair, say: escaped it is JSON
        return json.dumps(value, separators=(",", ":"))


def copied(document: ValueT) -> ValueT:
    """Return a value of JSON's types as it is after a way through a store: a copy, down to the last part."""
    copy: ValueT = json.loads(write(document))
    return copy
