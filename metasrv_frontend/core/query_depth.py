"""How deep a query is: the engine walks its plan recursively, and a stack that ends takes the whole process with it.

The engine's own parser bounds brackets, but not chains: `1 + 1 + ...` is a tree as deep as it is long, and so is
`SELECT ... UNION SELECT ...`. Measured with DataFusion 55 on stacks of 8 MiB (planning) and 2 MiB (running): chains of
2,000 operators and 200 set operations were well, 8,000 and 1,000 ended the process. Lists are flat, and may be long.
"""

from metasrv_frontend.core.sql_words import Kind, Statement, Unsupported

OPERATORS_MAX = 1_000  # in one chain, with what its brackets hold
SELECTS_MAX = 100
_FLAT = frozenset("().;[]{}")
_WORDS = frozenset({"AND", "OR", "NOT", "IS", "IN", "BETWEEN", "LIKE", "ILIKE", "SIMILAR", "DIV", "COLLATE", "AT"})
_SELECTS = frozenset({"SELECT", "UNION", "EXCEPT", "INTERSECT", "MINUS", "JOIN"})
_ENDS_FROM = _SELECTS - {"JOIN"} | {"WHERE", "GROUP", "HAVING", "ORDER", "LIMIT", "OFFSET", "WINDOW", "QUALIFY"}


class _Bracket:
    """What is open: the chain since its last comma, the longest before, and whether its commas join tables."""

    def __init__(self) -> None:
        self.chain = 0
        self.longest = 0
        self.joins = False


def check_depth(statement: Statement) -> None:
    """Raise Unsupported for a query whose plan may be too deep. It may refuse what would be well, never the inverse."""
    selects = 0
    here = _Bracket()
    outer: list[_Bracket] = []
    for word in statement.words:
        text = word.text.upper()
        if word.kind is Kind.SIGN:
            if text == "(":
                outer.append(here)
                here = _Bracket()
            elif text == ")" and outer:
                inner = max(here.chain, here.longest)
                here = outer.pop()
                here.chain += inner
            elif text == ",":
                here.chain, here.longest = 0, max(here.chain, here.longest)
                selects += here.joins
            elif text not in _FLAT:
                here.chain += 1
        elif word.kind is Kind.PLAIN:
            here.chain += text in _WORDS
            selects += text in _SELECTS
            here.joins = text == "FROM" or (here.joins and text not in _ENDS_FROM)
        if here.chain > OPERATORS_MAX:
            raise Unsupported(f"more than {OPERATORS_MAX} operators in one expression; of many values, write IN (...)")
        if selects > SELECTS_MAX:
            raise Unsupported(f"more than {SELECTS_MAX} tables, SELECT, UNION, EXCEPT and INTERSECT in one query")
