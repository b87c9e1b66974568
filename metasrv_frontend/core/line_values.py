"""The words of line protocol: numbers, booleans, strings and names, and the error that names their line."""

import re
from typing import NoReturn

from groundwork.core.errors import BadInput
from groundwork.core.table import NAME_BYTES_MAX, RESERVED_PREFIX, ColumnType

I64_MIN, I64_MAX, U64_MAX = -(1 << 63), (1 << 63) - 1, (1 << 64) - 1
TIME_NS_MAX = I64_MAX - 1  # time ranges end exclusively, so the last nanosecond could never be asked for
STRING_BYTES_MAX = 64 << 10
INTEGER = re.compile(rb"[+-]?\d+")
_FLOAT = re.compile(rb"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_RESERVED = RESERVED_PREFIX.encode()
_TRUE = frozenset((b"t", b"T", b"true", b"True", b"TRUE"))
_FALSE = frozenset((b"f", b"F", b"false", b"False", b"FALSE"))

Value = float | int | bool | str


class BadLine(BadInput):
    """A line that cannot be applied. `line` counts from 1; nothing of its body was applied."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}", f"{reason}; nothing of this request was applied")
        self.line = line


def refuse_twice(name: str, number: int) -> NoReturn:
    """Raise: a field is there twice in one line."""
    raise BadLine(number, f"the field {name!r} is there twice")


def show(raw: bytes) -> str:
    """Bytes as people read them, at most 60."""
    return repr(raw[:60].decode(errors="replace"))


def decoded(raw: bytes, number: int, what: str) -> str:
    """UTF-8 text of bounded length, or BadLine."""
    if len(raw) > STRING_BYTES_MAX:
        raise BadLine(number, f"{what} has {len(raw)} bytes; at most {STRING_BYTES_MAX}")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise BadLine(number, f"{what} is not UTF-8 (byte {error.start + 1})") from error


def string_value(raw: bytes, number: int, key: bytes) -> tuple[ColumnType, Value]:
    """A string, already without escapes."""
    if len(raw) <= STRING_BYTES_MAX:
        try:
            return "string", raw.decode()
        except UnicodeDecodeError:
            pass  # decoded says it with the field and the place
    return "string", decoded(raw, number, f"field {show(key)}")


def checked_name(raw: bytes, number: int, what: str) -> str:
    """A name of a table or column, or BadLine."""
    if not 0 < len(raw) <= NAME_BYTES_MAX:
        raise BadLine(number, f"the {what} name {show(raw)} is not 1 to {NAME_BYTES_MAX} bytes long")
    if what != "measurement" and raw.startswith(_RESERVED):
        raise BadLine(
            number, f"the {what} name {show(raw)} begins with {RESERVED_PREFIX}, which datanodes use themselves"
        )
    return decoded(raw, number, f"the {what} name")


def refuse_number(raw: bytes, number: int, name: str) -> NoReturn:
    """Raise: this is no value."""
    raise BadLine(
        number,
        f"the value {show(raw)} of field {name!r} is none: numbers are 1.5, 1i or 1u, booleans true or false, "
        'strings "in double quotes"',
    )


def _integer(raw: bytes, low: int, high: int, number: int, key: bytes) -> int:
    digits = raw[:-1]
    if not INTEGER.fullmatch(digits):
        refuse_number(raw, number, key.decode(errors="replace"))
    if len(digits) > 21 or not low <= (value := int(digits)) <= high:
        raise BadLine(number, f"the value {show(raw)} of field {show(key)} is outside {low} to {high}")
    return value


def bare_value(raw: bytes, number: int, key: bytes) -> tuple[ColumnType, Value]:
    """A value that is not a string: its type and itself."""
    last = raw[-1:]
    if last.isdigit() and raw[0] > 32 and b"_" not in raw and len(raw) < 300:
        try:
            number_read = float(raw)
        except ValueError:
            refuse_number(raw, number, key.decode(errors="replace"))
        if number_read - number_read == 0.0:
            return "float64", number_read
    if last == b"i":
        return "int64", _integer(raw, I64_MIN, I64_MAX, number, key)
    if last == b"u":
        return "uint64", _integer(raw, 0, U64_MAX, number, key)
    if raw in _TRUE:
        return "bool", True
    if raw in _FALSE:
        return "bool", False
    if not _FLOAT.fullmatch(raw):
        refuse_number(raw, number, key.decode(errors="replace"))
    value = float(raw)
    if value in (float("inf"), float("-inf")):
        raise BadLine(number, f"the value {show(raw)} of field {show(key)} is too big for a float")
    return "float64", value
