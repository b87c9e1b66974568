"""What a key may look like, the same on every home."""

import re

from groundwork.core.errors import BadInput

KEY_BYTES_MAX = 900
_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._=-]{0,199}")


def check_key(key: str) -> str:
    """Return the key, or raise BadInput: parts of A-Z a-z 0-9 . _ = - that do not begin with a dot, joined by '/'."""
    if len(key) > KEY_BYTES_MAX or not all(_PART.fullmatch(part) for part in key.split("/")):
        raise BadInput(
            "key", f"{key!r} is not a key: parts of A-Z a-z 0-9 . _ = -, joined by '/', none begins with '.'"
        )
    return key


def check_prefix(prefix: str) -> str:
    """Return a listing's prefix, or raise BadInput: empty, or a folder with its '/' at the end."""
    if prefix and not prefix.endswith("/"):
        raise BadInput("prefix", f"{prefix!r} does not end with '/': listings are by folder")
    if prefix:
        check_key(prefix[:-1])
    return prefix
