"""SQL text cut into statements of words, by sqlglot's tokenizer, and a reader that walks over them."""

import enum
from typing import ClassVar, NamedTuple, NoReturn

from sqlglot import Tokenizer, TokenType
from sqlglot.errors import TokenError

from groundwork.core.errors import BadInput

SQL_BYTES_MAX = 1 << 20
WORDS_MAX = 2_000_000


class Kind(enum.Enum):
    """What a word is."""

    PLAIN = "plain"  # a keyword, or a name that is not quoted
    QUOTED = "quoted"  # a name in "..." or `...`
    STRING = "string"
    NUMBER = "number"
    SIGN = "sign"  # punctuation


class Word(NamedTuple):
    """One token, and where it is in the text."""

    kind: Kind
    text: str
    start: int
    end: int

    @property
    def name(self) -> str:
        """As a name: lower case unless quoted."""
        return self.text if self.kind is Kind.QUOTED else self.text.lower()


class Statement(NamedTuple):
    """One statement: its text without the semicolon, and its words."""

    text: str
    words: tuple[Word, ...]

    @property
    def verb(self) -> str:
        """The first word, in upper case."""
        return self.words[0].text.upper()


class SqlSyntax(BadInput):
    """Text that is not a statement we know."""

    def __init__(self, message: str) -> None:
        super().__init__("sql", message)


class Unsupported(SqlSyntax):
    """A statement that is well known elsewhere, and not here."""


class NoColumn(SqlSyntax):
    """A statement names a column that is not there."""


class BadValue(SqlSyntax):
    """A value that the column, or the clause, cannot have."""


class _Tokenizer(Tokenizer):
    IDENTIFIERS: ClassVar = ['"', "`"]
    COMMANDS: ClassVar = set()


def statements(sql: str) -> list[Statement]:
    """Cut text at its semicolons. Raises SqlSyntax."""
    if len(sql.encode()) > SQL_BYTES_MAX:
        raise SqlSyntax(f"the text is longer than {SQL_BYTES_MAX} bytes")
    try:
        tokens = _Tokenizer().tokenize(sql)
    except TokenError as error:
        raise SqlSyntax(f"cannot be read: {error}") from error
    found: list[Statement] = []
    words: list[Word] = []
    for token in tokens:
        if token.token_type is TokenType.SEMICOLON:
            _close(sql, words, found)
        else:
            words.extend(_words(token.token_type, token.text, token.start, token.end + 1))
    _close(sql, words, found)
    if not found:
        raise SqlSyntax("there is no statement")
    return found


def _close(sql: str, words: list[Word], found: list[Statement]) -> None:
    if words:
        found.append(Statement(sql[words[0].start : words[-1].end], tuple(words)))
        words.clear()


def _words(kind: TokenType, text: str, start: int, end: int) -> list[Word]:
    if kind is TokenType.IDENTIFIER:
        return [Word(Kind.QUOTED, text, start, end)]
    if kind in (TokenType.STRING, TokenType.RAW_STRING, TokenType.NATIONAL_STRING):
        return [Word(Kind.STRING, text, start, end)]
    if kind is TokenType.NUMBER:
        return [Word(Kind.NUMBER, text, start, end)]
    if text and (text[0].isalpha() or text[0] == "_"):
        return [Word(Kind.PLAIN, part, start, end) for part in text.split()]  # PRIMARY KEY is one token
    return [Word(Kind.SIGN, text, start, end)]


class Reader:
    """Walks over the words of one statement. Every refusal says what was expected and what is there."""

    def __init__(self, statement: Statement) -> None:
        self._words = statement.words
        self._at = 0

    @property
    def ended(self) -> bool:
        """Whether all words are read."""
        return self._at >= len(self._words)

    def peek(self, ahead: int = 0) -> Word | None:
        """A word to come."""
        place = self._at + ahead
        return self._words[place] if place < len(self._words) else None

    def accept(self, *expected: str) -> bool:
        """Step over these keywords or signs if they are all there."""
        for ahead, text in enumerate(expected):
            word = self.peek(ahead)
            if word is None or word.kind not in (Kind.PLAIN, Kind.SIGN) or word.text.upper() != text:
                return False
        self._at += len(expected)
        return True

    def expect(self, *expected: str) -> None:
        """Step over these keywords or signs. Raises SqlSyntax."""
        if not self.accept(*expected):
            self.refuse(" ".join(expected))

    def next(self, what: str) -> Word:
        """The next word, whatever it is."""
        word = self.peek()
        if word is None:
            self.refuse(what)
        self._at += 1
        return word

    def name(self, what: str) -> str:
        """A name: lower case unless quoted."""
        word = self.next(what)
        if word.kind not in (Kind.PLAIN, Kind.QUOTED):
            self._at -= 1
            self.refuse(what)
        return word.name

    def table_name(self) -> str:
        """A table's name, with or without `public.` or `greptime.public.` before it."""
        parts = [self.name("a table name")]
        while self.accept("."):
            parts.append(self.name("a table name"))
        if len(parts) > 3 or any(p != d for p, d in zip(parts[-2::-1], ("public", "greptime"), strict=False)):
            raise SqlSyntax(f"{'.'.join(parts)}: there is one database, public")
        return parts[-1]

    def names(self) -> list[str]:
        """Names in brackets."""
        self.expect("(")
        found = []
        while not self.accept(")"):
            found.append(self.name("a column name"))
            if not self.accept(","):
                self.expect(")")
                break
        return found

    def end(self) -> None:
        """Nothing may follow."""
        if not self.ended:
            self.refuse("the end of the statement")

    def refuse(self, expected: str) -> NoReturn:
        """Raise SqlSyntax."""
        word = self.peek()
        raise SqlSyntax(f"expected {expected}, found {repr(word.text) if word else 'the end of the statement'}")
