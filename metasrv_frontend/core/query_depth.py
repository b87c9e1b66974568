"""How deep a query is: the engine walks its plan recursively, and a stack that ends takes the whole process with it.

The engine's own parser bounds brackets, but not chains: `1 + 1 + ...` is a tree as deep as it is long, and so is
`SELECT ... UNION SELECT ...`. Measured with DataFusion 55 on stacks of 8 MiB (planning) and 2 MiB (running): chains of
2,000 operators and 200 set operations were well, 8,000 and 1,000 ended the process. Lists are flat, and may be long.
"""

from metasrv_frontend.core.sql_words import Kind, Statement, Unsupported

OPERATORS_MAX = 1_000  # in one chain, with what its brackets hold
SELECTS_MAX = 100
BRACKETS_MAX = 100  # within each other: those of types are bounded by nobody else
_FLAT = frozenset(".;]}")
_LOGICAL = frozenset({"AND", "OR", "XOR"})
_WORDS = frozenset(
    {
        "NOT", "IS", "ISNULL", "NOTNULL", "IN", "BETWEEN", "LIKE", "ILIKE", "RLIKE", "REGEXP", "MATCH", "GLOB",
        "SIMILAR", "MEMBER", "OVERLAPS", "OPERATOR", "DIV", "MOD", "COLLATE", "AT", "INTERVAL", "PRIOR", "ARRAY",
        "EXPLAIN", "DESCRIBE", "DESC", "ANALYZE",
    }
)  # fmt: skip
_SELECTS = frozenset({"SELECT", "UNION", "EXCEPT", "INTERSECT", "MINUS", "JOIN"})
_ENDS_FROM = _SELECTS - {"JOIN"} | {"WHERE", "GROUP", "HAVING", "ORDER", "LIMIT", "OFFSET", "WINDOW", "QUALIFY"}


class _Bracket:
    """What is open: the chain since its last comma, the longest before, and whether its commas join tables.

    A chain of conditions is as deep as it has AND and OR, and as the deepest of them: these bind less than all else,
    but for the AND of a BETWEEN, and those that a CASE holds.
    """

    def __init__(self) -> None:
        self.conditions = 0
        self.operators = 0  # since the last AND or OR
        self.deepest = 0  # of those before
        self.longest = 0
        self.between = 0  # whose AND is to come
        self.whole = False
        self.joins = False

    @property
    def chain(self) -> int:
        """How deep it may be since the last comma."""
        return self.conditions + max(self.operators, self.deepest)

    @property
    def depth(self) -> int:
        """How deep it may be."""
        return max(self.chain, self.longest)

    def word(self, text: str) -> None:
        """A keyword or a name."""
        if text in _LOGICAL and not self.between and not self.whole:
            self.conditions += 1
            self.operators, self.deepest = 0, max(self.operators, self.deepest)
        elif text in _LOGICAL or text in _WORDS:
            self.operators += 1
            self.between += text == "BETWEEN"
            self.between -= text == "AND" and self.between > 0
        self.whole = self.whole or text == "CASE"
        self.joins = text == "FROM" or (self.joins and text not in _ENDS_FROM)

    def comma(self) -> None:
        """Another of the same list begins."""
        self.longest = self.depth
        self.conditions = self.operators = self.deepest = self.between = 0
        self.whole = False


def check_depth(statement: Statement) -> None:
    """Raise Unsupported for a query whose plan may be too deep. It may refuse what would be well, never the inverse."""
    _check_quotes(statement)
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
                inner = here.depth
                here = outer.pop()
                here.operators += inner
            elif text == ",":
                here.comma()
                selects += here.joins
            elif text not in _FLAT:
                here.operators += 1
        elif word.kind is Kind.PLAIN:
            here.word(text)
            selects += text in _SELECTS
        if here.chain > OPERATORS_MAX:
            raise Unsupported(f"more than {OPERATORS_MAX} operators in one expression; of many values, write IN (...)")
        if selects > SELECTS_MAX:
            raise Unsupported(f"more than {SELECTS_MAX} tables, SELECT, UNION, EXCEPT and INTERSECT in one query")
        if len(outer) > BRACKETS_MAX:
            raise Unsupported(f"more than {BRACKETS_MAX} brackets within each other")


def _check_quotes(statement: Statement) -> None:
    """Raise Unsupported for strings that the engine ends elsewhere than we do: what we count must be what it reads.

    To it `E'\\''`, `$$'$$` and `q'[']'` are whole strings; to us a string begins there, with all that follows.
    """
    text, begin = statement.text, statement.words[0].start
    for word in statement.words:
        at = word.start - begin
        if word.kind is Kind.STRING:
            before = text[at - 1] if at else " "
            if text[at] != "'" or before.isalnum() or before in "_&'\"`":
                raise Unsupported(f"{text[max(0, at - 2) : at + 1]}: strings are '...' only; put a space before one")
        elif word.kind is not Kind.QUOTED and "$" in word.text:
            raise Unsupported("$ outside of strings and names in quotes")
