"""The deadline that a client states with its request."""

import re

from starlette.requests import Request

from groundwork.core.errors import BadInput

_UNITS_MS = {"ms": 1, "s": 1_000, "sec": 1_000, "m": 60_000, "min": 60_000}
_WHOLE = re.compile(r"[0-9]{1,9}")
_TIMEOUT = re.compile(r"(\d{1,9})(ms|s|sec|m|min)")


def deadline_of(request: Request, default_ms: int, max_ms: int) -> int:
    """Milliseconds from now: `x-deadline-ms: 5000`, or `x-greptime-timeout: 5s`. Raises BadInput."""
    stated = request.headers.get("x-deadline-ms")
    if stated is not None:
        if not _WHOLE.fullmatch(stated) or not 0 < int(stated) <= max_ms:
            raise BadInput("x-deadline-ms", f"{stated!r} is not 1 to {max_ms}")
        return int(stated)
    timeout = request.headers.get("x-greptime-timeout")
    if timeout is not None:
        match = _TIMEOUT.fullmatch(timeout.replace(" ", ""))
        if match is None or not 0 < (ms := int(match[1]) * _UNITS_MS[match[2]]) <= max_ms:
            raise BadInput("x-greptime-timeout", f"{timeout!r} is not of the form 5s, 500ms or 2m, up to {max_ms} ms")
        return ms
    return default_ms
