"""Hold what was read back against the ledger. Pure; its tests plant losses, so that it is known to see them.

- lost: a key was acknowledged and is not there.
- wrong: a key is there that was never attempted, or twice, or with a value that is neither the last acknowledged one
  nor a later attempt.
"""

from collections.abc import Iterable

import msgspec

from metactl.ledger import Attempts, Key, Ledger, Row, key_of, value_of

EXAMPLES_MAX = 5


class Verdict(msgspec.Struct, frozen=True):
    """Counts of rows, and a few sentences about the first ones that are not as they must be."""

    acked: int
    read: int
    lost: int
    wrong: int
    examples: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        """Whether every promise held."""
        return self.lost == 0 and self.wrong == 0


def check(ledger: Ledger, rows: Iterable[Row]) -> Verdict:
    """Compare every row read back with every attempt."""
    known: dict[Key, Attempts] = {}
    for region in ledger.regions.values():
        known.update(region)
    seen: set[Key] = set()
    wrong: list[str] = []
    read = 0
    for row in rows:
        read += 1
        key = key_of(row)
        fault = _fault(known.get(key), row, key in seen)
        if fault:
            wrong.append(fault)
        seen.add(key)
    missing = [key for key, attempts in known.items() if attempts.acked >= 0 and key not in seen]
    examples = [f"lost: {key}, acknowledged as {known[key].values[known[key].acked]}" for key in missing[:EXAMPLES_MAX]]
    return Verdict(ledger.acked_rows, read, len(missing), len(wrong), (*examples, *wrong[:EXAMPLES_MAX]))


def _fault(attempts: Attempts | None, row: Row, again: bool) -> str:
    """What is wrong with one row, empty where nothing is."""
    if attempts is None:
        return f"wrong: {row} was never attempted"
    if again:
        return f"wrong: {row} is there more than once"
    if value_of(row) not in attempts.allowed:
        return f"wrong: {row} is none of the last acknowledged or later values {attempts.allowed}"
    return ""
