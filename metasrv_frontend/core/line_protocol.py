r"""InfluxDB line protocol into columns, one set a table.

Theory of operation. Most lines have no escape and no quoted string; they are split on spaces and commas. The head of
a line (measurement and tags) repeats, so it is parsed once a body and remembered as a *series*; fields go straight
into columns. A line with a backslash or a quote is read by an exact scanner instead, which also knows that a quoted
string may contain a line end. Both paths share the same value rules, and a property test holds them to one answer.

Escapes: `\` before `,` or space in a measurement, before `,`, `=` or space in a tag key, tag value or field key, and
before `"` or `\` in a string; any other `\` stands for itself. All or nothing: the first bad line refuses the body.
"""

import re
from typing import NoReturn

from groundwork.core.errors import BadInput
from groundwork.core.table import ColumnType
from metasrv_frontend.core.line_values import (
    I64_MIN,
    INTEGER,
    TIME_NS_MAX,
    BadLine,
    Value,
    bare_value,
    checked_name,
    decoded,
    refuse_number,
    refuse_twice,
    show,
    string_value,
)

# v2 clients say ns, us, ms, s; v1 clients n, u, ms, s, m, h.
PRECISION_NS = {
    "": 1, "ns": 1, "n": 1, "us": 1_000, "u": 1_000, "µ": 1_000, "ms": 1_000_000, "s": 1_000_000_000,
    "m": 60_000_000_000, "h": 3_600_000_000_000,
}  # fmt: skip

_MEASUREMENT = re.compile(rb"(?:[^\\, \n]++|\\[, ]|\\)++")
_KEY = re.compile(rb"(?:[^\\,= \n]++|\\[,= ]|\\)++")
_STRING = re.compile(rb'"((?:[^"\\]++|\\.)*+)"', re.DOTALL)
_BARE = re.compile(rb"[^, \n\r\t\0]++")
# A field without escapes: most of those in lines that have a string.
_SIMPLE_FIELD = re.compile(rb'([^\\,= \n"]++)=(?:"([^"\\]*+)"|([^, \n\r\t\0"]++))(?=[, \n\r\t\0]|\Z)')
_SPACES = re.compile(rb" +")
_END = re.compile(rb"[ \t\r\0]*(?:\n|\Z)")
_HASH = ord("#")  # a comment begins with it; blanks and control characters lie below
# Nulls of absent fields in one body: lines that each have a field of their own would make far more of them than bytes.
NULLS_MAX = 10_000_000
_UNESCAPE_NAME = re.compile(rb"\\([,= ])")
_UNESCAPE_MEASUREMENT = re.compile(rb"\\([, ])")
_UNESCAPE_STRING = re.compile(rb'\\(["\\])')


class FieldColumn:
    """One field of one table: a value a row, None where a line did not have it."""

    __slots__ = ("line", "name", "type", "values")

    def __init__(self, name: str, column_type: ColumnType, rows: int, line: int) -> None:
        self.name = name
        self.type = column_type
        self.values: list[Value | None] = [None] * rows
        self.line = line  # the first that has it


class TableLines:
    """One table's lines as columns: `series[row_series[i]]`, `times_ns[i]` and `fields[...].values[i]` are row i."""

    __slots__ = ("by_raw", "fields", "name", "row_series", "series", "series_index", "tag_lines", "times_ns", "untimed")

    def __init__(self, name: str) -> None:
        self.name = name
        self.series: list[dict[str, str]] = []
        self.series_index: dict[tuple[tuple[str, str], ...], int] = {}
        self.row_series: list[int] = []
        self.times_ns: list[int] = []
        self.untimed: list[int] = []  # rows whose line had no time; `times_ns` holds 0 there until assign_now
        self.fields: dict[str, FieldColumn] = {}
        self.by_raw: dict[bytes, FieldColumn] = {}
        self.tag_lines: dict[str, int] = {}  # tag -> the first line that has it

    def assign_now(self, now_ns: int) -> None:
        """Give the rows without a time this one: once, before the first attempt, so that attempts are the same rows."""
        for row in self.untimed:
            self.times_ns[row] = now_ns
        self.untimed = []


def parse_lines(body: bytes, precision: str = "", columns_max: int = 1_000) -> dict[str, TableLines]:
    """Parse a body. Raises BadLine; BadInput where `precision` is none that is known."""
    if precision not in PRECISION_NS:
        raise BadInput("precision", f"{precision!r} is not one of {', '.join(p for p in PRECISION_NS if p)}")
    parser = _Parser(body, PRECISION_NS[precision], columns_max)
    parser.run()
    return parser.tables


class _Parser:
    def __init__(self, body: bytes, unit_ns: int, columns_max: int) -> None:
        self._body = body
        self._unit_ns = unit_ns
        self._columns_max = columns_max
        self._nulls = 0
        self._heads: dict[bytes, tuple[TableLines, int]] = {}
        self.tables: dict[str, TableLines] = {}

    def run(self, exact_only: bool = False) -> None:
        body = self._body
        if b"\\" not in body and b'"' not in body and not exact_only:
            for number, line in enumerate(body.split(b"\n"), 1):
                self._plain(line, number)
            return
        position, number, end = 0, 0, len(body)
        while position < end:
            number += 1
            stop = body.find(b"\n", position)
            stop = end if stop < 0 else stop
            line = body[position:stop]
            if exact_only or b"\\" in line or b'"' in line:
                following = self._exact(position, number)
                number += body.count(b"\n", position, max(position, following - 1))  # line ends inside strings
                position = following
            else:
                self._plain(line, number)
                position = stop + 1

    def _plain(self, line: bytes, number: int) -> None:
        """A line without escapes and quotes."""
        parts = line.split(b" ")
        if len(parts) == 3 and parts[2].isdigit() and line[0] > _HASH:
            head, fields, stamp = parts
        else:
            parts = [p for p in line.strip(b" \t\r\0").split(b" ") if p]
            if not parts or parts[0].startswith(b"#"):
                return
            if len(parts) == 2:
                head, fields = parts
                stamp = b""
            elif len(parts) == 3:
                head, fields, stamp = parts
            else:
                self._refuse_shape(parts, number)
        known = self._heads.get(head)
        if known is None:
            known = self._heads[head] = self._new_head(head, number)
        table, series = known
        rows = len(table.row_series)
        by_raw = table.by_raw
        filled = 0
        for part in fields.split(b","):
            key, _, raw = part.partition(b"=")
            column = by_raw.get(key)
            if (
                column is not None
                and column.type == "float64"
                and raw[-1:].isdigit()
                and raw[0] > 32
                and b"_" not in raw
            ):
                values = column.values
                if len(values) != rows:
                    refuse_twice(column.name, number)
                try:
                    value = float(raw)
                except ValueError:
                    refuse_number(raw, number, column.name)
                if value - value != 0.0:  # only infinities differ from themselves
                    refuse_number(raw, number, column.name)
                values.append(value)
            else:
                if not key or not raw:
                    raise BadLine(number, f"the field {show(part)} is not of the form key=value")
                self._field(table, key, bare_value(raw, number, key), rows, number)
            filled += 1
        self._finish_row(table, series, filled, stamp, number)

    def _refuse_shape(self, parts: list[bytes], number: int) -> NoReturn:
        if len(parts) == 1:
            raise BadLine(number, f"there are no fields after {show(parts[0])}")
        raise BadLine(number, f"unexpected {show(parts[3])} after the timestamp (an unescaped space?)")

    def _finish_row(self, table: TableLines, series: int, filled: int, stamp: bytes, number: int) -> None:
        rows = len(table.row_series)
        if filled != len(table.fields):
            self._count_nulls(len(table.fields) - filled, number)
            for column in table.fields.values():
                if len(column.values) == rows:
                    column.values.append(None)
        table.row_series.append(series)
        if not stamp:
            table.untimed.append(rows)
            table.times_ns.append(0)
            return
        if not INTEGER.fullmatch(stamp):
            raise BadLine(number, f"the timestamp {show(stamp)} is not a whole number")
        if len(stamp) > 20 or not I64_MIN <= (time_ns := int(stamp) * self._unit_ns) <= TIME_NS_MAX:
            raise BadLine(
                number, f"the timestamp {show(stamp)} is outside the years 1677 to 2262; is the precision right?"
            )
        table.times_ns.append(time_ns)

    def _field(self, table: TableLines, key: bytes, typed: tuple[ColumnType, Value], rows: int, number: int) -> None:
        """Append one field's value, making its column where it is new. `key` is escaped as written."""
        column_type, value = typed
        column = table.by_raw.get(key)
        if column is None:
            name = checked_name(_UNESCAPE_NAME.sub(rb"\1", key), number, "field")
            column = table.fields.get(name)
            if column is None:
                if len(table.fields) >= self._columns_max:
                    raise BadLine(number, f"more than {self._columns_max} fields in table {table.name!r}")
                if name in table.tag_lines:
                    raise BadLine(number, f"{name!r} is a tag and a field")
                self._count_nulls(rows, number)
                column = table.fields[name] = FieldColumn(name, column_type, rows, number)
            table.by_raw[key] = column
        if column.type != column_type:
            raise BadLine(
                number,
                f"field type conflict: {column.name!r} of table {table.name!r} is {column_type} here, "
                f"{column.type} on line {column.line}",
            )
        if len(column.values) != rows:
            refuse_twice(column.name, number)
        column.values.append(value)

    def _count_nulls(self, count: int, number: int) -> None:
        self._nulls += count
        if self._nulls > NULLS_MAX:
            raise BadLine(
                number, f"these lines have so different fields that they make {NULLS_MAX} nulls: send smaller requests"
            )

    def _new_head(self, head: bytes, number: int) -> tuple[TableLines, int]:
        """Measurement and tags without escapes."""
        measurement, *pairs = head.split(b",")
        tags = []
        for pair in pairs:
            key, _, value = pair.partition(b"=")
            if not key or not value or b"=" in value:
                raise BadLine(number, f"the tag {show(pair)} is not of the form key=value")
            tags.append((key, value))
        return self._series(measurement, tags, number)

    def _series(self, measurement: bytes, pairs: list[tuple[bytes, bytes]], number: int) -> tuple[TableLines, int]:
        """The table and the series of a head, both already unescaped."""
        name = checked_name(measurement, number, "measurement")
        table = self.tables.get(name)
        if table is None:
            table = self.tables[name] = TableLines(name)
        tags: dict[str, str] = {}
        for key, value in pairs:
            tag = checked_name(key, number, "tag")
            if tag in tags:
                raise BadLine(number, f"the tag {tag!r} is there twice")
            if tag in table.fields:
                raise BadLine(number, f"{tag!r} is a tag and a field")
            tags[tag] = decoded(value, number, f"the value of tag {tag!r}")
            table.tag_lines.setdefault(tag, number)
        if len(table.tag_lines) > self._columns_max:
            raise BadLine(number, f"more than {self._columns_max} tags in table {name!r}")
        identity = tuple(sorted(tags.items()))
        index = table.series_index.get(identity)
        if index is None:
            index = table.series_index[identity] = len(table.series)
            table.series.append(tags)
        return table, index

    def _exact(self, position: int, number: int) -> int:
        """One line that begins at `position`, by the whole grammar; where the next one begins."""
        body = self._body
        while position < len(body) and body[position] in b" \t\r\0":
            position += 1
        blank = _END.match(body, position)
        if blank is not None:
            return max(blank.end(), position + 1)
        if body[position : position + 1] == b"#":
            end = body.find(b"\n", position)
            return len(body) if end < 0 else end + 1
        (table, series), position = self._exact_head(position, number)
        rows, filled = len(table.row_series), 0
        position = self._skip_spaces(position, number, "there are no fields")
        while True:
            match = _SIMPLE_FIELD.match(body, position)
            if match is not None:
                key, text, bare = match.groups()
                typed = bare_value(bare, number, key) if text is None else string_value(text, number, key)
                position = match.end()
            else:
                key, position = self._expect_key(position, number, "field")
                typed, position = self._exact_value(position, number, key)
            self._field(table, key, typed, rows, number)
            filled += 1
            if body[position : position + 1] != b",":
                break
            position += 1
        stamp = b""
        ended = _END.match(body, position)
        if ended is None:
            position = self._skip_spaces(position, number, f"unexpected {show(body[position : position + 20])}")
            match = _BARE.match(body, position)
            stamp = match.group() if match else b""
            position += len(stamp)
            ended = _END.match(body, position)
        if ended is None:
            raise BadLine(number, f"unexpected {show(body[position : position + 20])} after the timestamp")
        self._finish_row(table, series, filled, stamp, number)
        return max(ended.end(), position + 1)

    def _exact_head(self, start: int, number: int) -> tuple[tuple[TableLines, int], int]:
        """The table and series of the head that begins at `start`, and where it ends."""
        end = self._body.find(b" ", start)
        head = self._body[start:end]
        known = self._heads.get(head)
        if known is not None and b"\\" not in head:
            return known, end
        end, pairs = self._exact_pairs(start, number)
        head = self._body[start:end]
        known = self._heads.get(head)
        if known is None:
            match = _MEASUREMENT.match(head)
            measurement = _UNESCAPE_MEASUREMENT.sub(rb"\1", match.group()) if match else b""
            known = self._heads[head] = self._series(measurement, pairs, number)
        return known, end

    def _exact_pairs(self, position: int, number: int) -> tuple[int, list[tuple[bytes, bytes]]]:
        """The end of the head that begins at `position`, and its tags."""
        body = self._body
        found = _MEASUREMENT.match(body, position)
        if found is None:
            raise BadLine(number, "there is no measurement")
        position = found.end()
        pairs: list[tuple[bytes, bytes]] = []
        while body[position : position + 1] == b",":
            key, position = self._expect_key(position + 1, number, "tag")
            match = _KEY.match(body, position)
            if match is None:
                raise BadLine(number, f"the tag {show(key)} has no value")
            position = match.end()
            if body[position : position + 1] == b"=":
                raise BadLine(number, f"there is an unescaped = in the value of tag {show(key)}")
            pairs.append((_UNESCAPE_NAME.sub(rb"\1", key), _UNESCAPE_NAME.sub(rb"\1", match.group())))
        return position, pairs

    def _skip_spaces(self, position: int, number: int, otherwise: str) -> int:
        match = _SPACES.match(self._body, position)
        if match is None:
            raise BadLine(number, otherwise)
        return match.end()

    def _expect_key(self, position: int, number: int, what: str) -> tuple[bytes, int]:
        """A key as written, escapes and all, and the position after its '='."""
        match = _KEY.match(self._body, position)
        if match is None or self._body[match.end() : match.end() + 1] != b"=":
            shown = show(self._body[position : position + 30].split(b"\n")[0])
            raise BadLine(number, f"the {what} {shown} is not of the form key=value")
        return match.group(), match.end() + 1

    def _exact_value(self, position: int, number: int, key: bytes) -> tuple[tuple[ColumnType, Value], int]:
        if self._body[position : position + 1] == b'"':
            match = _STRING.match(self._body, position)
            if match is None:
                raise BadLine(number, f"the string of field {show(key)} does not end")
            raw = _UNESCAPE_STRING.sub(rb"\1", match.group(1))
            return string_value(raw, number, key), match.end()
        match = _BARE.match(self._body, position)
        if match is None:
            raise BadLine(number, f"the field {show(key)} has no value")
        return bare_value(match.group(), number, key), match.end()
