"""Configuration files: TOML into a typed struct, with one clear line for whatever is wrong."""

import sys
import tomllib
from pathlib import Path
from typing import NoReturn, TypeVar

import msgspec

from groundwork.core.errors import BadInput

T = TypeVar("T")


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
        raise BadInput(str(path), str(error)) from error


def exit_with(error: BadInput | OSError | str, code: int = 2) -> NoReturn:
    """One line on stderr, then a non-zero exit: 2 for bad input or configuration."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(code)
