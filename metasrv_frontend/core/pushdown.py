"""What a plan needs of each table, read off the engine's optimized logical plan: columns, time range, limit, regions.

Everything here may only ask for too much, never for too little: the engine filters again. Where a table is read more
than once the needs are joined; where the plan hides a read of it (a subquery inside an expression) all of it is needed.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from groundwork.core.table import TableInfo

TIME_MIN, TIME_MAX = -(1 << 63), (1 << 63) - 1  # inclusive and exclusive
_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "="}


class Need(NamedTuple):
    """What must be read of a table. Times are [from_ns, to_ns); limit 0 means none; key None means every region."""

    columns: frozenset[str]
    from_ns: int = TIME_MIN
    to_ns: int = TIME_MAX
    limit: int = 0
    key: tuple[tuple[str, str], ...] | None = None

    def join(self, other: "Need") -> "Need":
        """What both need together."""
        return Need(
            self.columns | other.columns,
            min(self.from_ns, other.from_ns),
            max(self.to_ns, other.to_ns),
            max(self.limit, other.limit) if self.limit and other.limit else 0,
            self.key if self.key == other.key else None,
        )

    @property
    def bounded(self) -> bool:
        """Whether the time range leaves anything out."""
        return (self.from_ns, self.to_ns) != (TIME_MIN, TIME_MAX)


def everything_of(table: TableInfo) -> Need:
    """All columns, all of time."""
    return Need(frozenset(c.name for c in table.schema.columns))


def needs_of_plan(plan: Any, tables: dict[str, TableInfo]) -> dict[str, Need]:
    """What an optimized logical plan needs of each table it reads. Tables that it does not read are absent."""
    needs: dict[str, Need] = {}
    for scan, predicates in _scans(plan):
        table = tables.get(scan.table_name())
        if table is None:
            continue
        need = _need_of_scan(scan, predicates, table)
        needs[table.name] = needs[table.name].join(need) if table.name in needs else need
    if any(line.lstrip().startswith("Subquery:") for line in plan.display_indent().splitlines()):
        return {name: everything_of(table) for name, table in tables.items()}
    return needs


def regions_of_need(table: TableInfo, need: Need) -> tuple[int, ...]:
    """The regions to read: one when the whole partition key is given, else all."""
    if need.key is None:
        return table.region_ids
    return (table.region_of(dict(need.key)),)


def _scans(plan: Any) -> Iterator[tuple[Any, list[Any]]]:
    """Every table scan with the predicates of the filters right above it."""
    pending: list[tuple[Any, list[Any]]] = [(plan, [])]
    while pending:
        node, predicates = pending.pop()
        variant: Any = node.to_variant() if node.display().startswith(("TableScan", "Filter")) else None
        kind = type(variant).__name__
        if kind == "TableScan":
            yield variant, [*predicates, *variant.filters()]
            continue
        below = [*predicates, variant.predicate()] if kind == "Filter" else []
        pending.extend((child, below) for child in node.inputs())


def _need_of_scan(scan: Any, predicates: list[Any], table: TableInfo) -> Need:
    time = table.schema.time.name
    from_ns, to_ns = TIME_MIN, TIME_MAX
    equal: dict[str, str] = {}
    for predicate in predicates:
        for part in _conjuncts(predicate):
            low, high = _time_range(part, time)
            from_ns, to_ns = max(from_ns, low), min(to_ns, high)
            equal.update(_equality(part))
    names = table.partition_columns or tuple(c.name for c in table.schema.tags)
    key = tuple((n, equal[n]) for n in names) if names and all(n in equal for n in names) else None
    columns = frozenset(name for _, name in scan.projection() or [])
    return Need(columns, from_ns, max(from_ns, to_ns), scan.fetch() or 0 if not predicates else 0, key)


def _conjuncts(expression: Any) -> Iterator[Any]:
    pending = [expression]
    while pending:
        part = pending.pop()
        variant = _variant(part)
        if type(variant).__name__ == "BinaryExpr" and variant.op() == "AND":
            pending += [variant.left(), variant.right()]
        else:
            yield part


def _variant(expression: Any) -> Any:
    """The expression's own class; None for a kind that the bindings do not expose."""
    if not hasattr(expression, "to_variant"):
        return expression
    if expression.variant_name() not in ("BinaryExpr", "Column", "Literal", "InList"):
        return None
    return expression.to_variant()


def _comparison(expression: Any) -> tuple[str, str, Any] | None:
    """(column, operator, literal) with the column on the left, or None."""
    binary = _variant(expression)
    if type(binary).__name__ != "BinaryExpr" or binary.op() not in _FLIPPED:
        return None
    left, right, operator = _variant(binary.left()), _variant(binary.right()), binary.op()
    if type(left).__name__ == "Literal":
        left, right, operator = right, left, _FLIPPED[operator]
    if type(left).__name__ != "Column" or type(right).__name__ != "Literal":
        return None
    return left.name(), operator, right


def _equality(expression: Any) -> dict[str, str]:
    compared = _comparison(expression)
    if compared is None or compared[1] != "=" or not str(compared[2].data_type()).startswith("Utf8"):
        return {}
    value = compared[2].value_string()
    return {} if value is None else {compared[0]: value}


def _time_range(expression: Any, time: str) -> tuple[int, int]:
    """The times that can satisfy one conjunct."""
    everything = (TIME_MIN, TIME_MAX)
    binary = _variant(expression)
    if type(binary).__name__ == "BinaryExpr" and binary.op() == "OR":
        sides = [_conjunction_range(side, time) for side in (binary.left(), binary.right())]
        return min(s[0] for s in sides), max(s[1] for s in sides)
    compared = _comparison(expression)
    if compared is None or compared[0] != time or "Timestamp(ns" not in str(compared[2].data_type()):
        return everything
    value = compared[2].value_timestamp()[0]
    if value is None:
        return everything
    after = min(value + 1, TIME_MAX)
    return {
        "=": (value, after),
        "<": (TIME_MIN, value),
        "<=": (TIME_MIN, after),
        ">": (after, TIME_MAX),
        ">=": (value, TIME_MAX),
    }[compared[1]]


def _conjunction_range(expression: Any, time: str) -> tuple[int, int]:
    low, high = TIME_MIN, TIME_MAX
    for part in _conjuncts(expression):
        part_low, part_high = _time_range(part, time)
        low, high = max(low, part_low), min(high, part_high)
    return low, max(low, high)
