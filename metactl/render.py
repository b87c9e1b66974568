"""Answers as tables for people or JSON for programs. Region ids are shown as TABLE.PARTITION, as people type them."""

import json
from collections.abc import Sequence
from typing import Any

import click
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console
from rich.table import Table
from rich.text import Text

from groundwork.core.errors import BadInput
from groundwork.core.ids import partition_of, region_id, table_of

STATUS_STYLES = {
    "up": "green", "opening": "yellow", "suspect": "yellow", "unwell": "yellow", "draining": "blue", "drained": "blue",
    "lost": "red",
    "SERVING": "green", "OPENING": "yellow", "STOPPING": "blue", "LOST": "red", "done": "green", "running": "yellow",
}  # fmt: skip
_WIDE = (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)


def show_region(region: int) -> str:
    """A region id as people read and type it."""
    return f"{table_of(region)}.{partition_of(region)}"


def parse_region(text: str) -> int:
    """A region id as people type it: TABLE.PARTITION, or the number itself. Raises BadInput."""
    table, dot, partition = text.partition(".")
    try:
        if dot:
            return region_id(int(table), int(partition))
        return int(text, 0)
    except ValueError as error:
        raise BadInput("region", f"{text!r} is not TABLE_ID.PARTITION or a region id") from error


def parse_token(text: str, field: str) -> int:
    """A token (of a procedure, an incarnation, an epoch) as it is shown, 0x..., or as a number. Raises BadInput."""
    try:
        token = int(text, 0)
    except ValueError as error:
        raise BadInput(field, f"{text!r} is not an id such as 0x10000000007") from error
    if not 0 < token < 1 << 63:
        raise BadInput(field, f"{text} is out of range")
    return token


def styled(value: str) -> Text:
    """A status in its colour."""
    return Text(value, style=STATUS_STYLES.get(value, ""))


def grid(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], right: Sequence[str] = ()) -> Table:
    """A table; the columns named in `right` are numbers."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text | str) else str(cell) for cell in row))
    return table


def as_json(message: Message, indent: int | None = 2) -> str:
    """A protobuf answer as JSON, with the names of the .proto files and the defaults too; whole numbers as numbers."""
    found = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return json.dumps(_numbers(found, message.DESCRIPTOR), indent=indent, ensure_ascii=False)


def _numbers(found: dict[str, Any], descriptor: Any) -> dict[str, Any]:
    """In the order of the .proto file; 64-bit integers are text in protobuf JSON: they are numbers here."""
    out: dict[str, Any] = {}
    for field in descriptor.fields:
        if field.name not in found:
            continue
        value, inner = found[field.name], field.message_type
        wide = field.cpp_type in _WIDE
        if inner is not None and inner.GetOptions().map_entry:
            wide = inner.fields_by_name["value"].cpp_type in _WIDE
            out[field.name] = {key: int(item) if wide else item for key, item in value.items()}
        elif inner is not None:
            out[field.name] = [_numbers(v, inner) for v in value] if isinstance(value, list) else _numbers(value, inner)
        elif wide:
            out[field.name] = [int(v) for v in value] if isinstance(value, list) else int(value)
        else:
            out[field.name] = value
    return out


def emit(console: Console, output: str, message: Message, *tables: Table | str) -> None:
    """The JSON of the message, or the tables."""
    if output == "json":
        click.echo(as_json(message))
        return
    for table in tables:
        console.print(table)


def bytes_text(count: int) -> str:
    """Bytes as people read them."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{count} B"
