"""Configuration files: TOML into a typed struct, with one clear line for whatever is wrong."""

import difflib
import re
import sys
import tomllib
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec
import msgspec.inspect

from groundwork.core.errors import BadInput

T = TypeVar("T")
_UNKNOWN = re.compile(r"unknown field `(.+)`")


class TlsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Paths of PEM files. With them, every gRPC connection is mutual TLS; off loopback they are required."""

    certificate: str
    key: str
    authority: str


class ObjectStoreConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where objects live: a directory shared by all datanodes, or an S3 bucket."""

    directory: str = ""
    s3_bucket: str = ""
    s3_prefix: str = ""
    s3_endpoint: str = ""
    s3_region: str = ""


def load_config(path: Path, kind: type[T]) -> T:
    """Read and validate a configuration file. Raises BadInput that names the file, the field and what is allowed."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BadInput("--config", f"cannot read {path}: {error.strerror}") from error
    try:
        return msgspec.convert(tomllib.loads(raw.decode()), kind)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInput(str(path), f"not valid TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise BadInput(str(path), _said(str(error), kind)) from error


def _said(message: str, kind: Any) -> str:
    """What msgspec found wrong, with the field first and with what is allowed there."""
    found, _, at = message.partition(" - at `$")
    names = [name for name in at.rstrip("`").split(".") if name]
    for name in names:
        kind = _plain(get_type_hints(kind).get(name)) if msgspec.inspect.is_struct_type(kind) else None
    field = f"{'.'.join(names)}: " if names else ""
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    if choices:
        return f"{field}{found[0].lower()}{found[1:]}: it is one of {', '.join(map(str, choices))}"
    unknown = _UNKNOWN.search(found)
    if unknown and msgspec.inspect.is_struct_type(kind):
        known = msgspec.structs.fields(kind)
        near = difflib.get_close_matches(unknown[1], [f.name for f in known], 1)
        hint = f"did you mean {near[0]}?" if near else f"it may have {', '.join(sorted(f.name for f in known))}"
        return f"{field}unknown field `{unknown[1]}`: {hint}"
    return f"{field}{found[0].lower()}{found[1:]}"


def _plain(kind: Any) -> Any:
    """The type itself where it may also be None."""
    others = [arm for arm in get_args(kind) if arm is not type(None)]
    return others[0] if get_origin(kind) in (Union, UnionType) and len(others) == 1 else kind


def exit_with(error: BadInput | OSError | str, code: int = 2) -> NoReturn:
    """One line on stderr, then a non-zero exit: 2 for bad input or configuration."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(code)
