"""Which bytes of a file a `Range` header wants (RFC 9110 section 14.1.2). Pure."""

import re

_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")


def byte_range(header: str, size: int) -> tuple[int, int, bool] | None:
    """Return first byte, byte behind the last, and whether that is but a part; None: there is none of it.

    What is no range of bytes, or several, stands for the whole file, as the RFC lets a server do.
    """
    found = _RANGE.fullmatch(header.strip())
    if found is None or found.group(1) == found.group(2) == "":
        return 0, size, False
    first, last = found.groups()
    if not first:  # so many at the end
        wanted = min(int(last), size)
        return (size - wanted, size, True) if wanted else None
    start, stop = int(first), min(int(last) + 1 if last else size, size)
    if last and int(last) < int(first):
        return 0, size, False
    return (start, stop, True) if start < size else None
