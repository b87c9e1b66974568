"""Planted defects: what each takes out, where, and who should notice. They live in planted/*.toml."""

import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PLANTED = Path(__file__).parent / "planted"


class Edit(NamedTuple):
    """One place in the source. `find` must be there exactly once."""

    file: str
    find: str
    put: str

    def apply(self, root: Path) -> None:
        """Change the file under `root`. Raises LookupError where the list has rotted."""
        path = root / self.file
        text = path.read_text()
        found = text.count(self.find)
        if found != 1:
            raise LookupError(f"{self.file}: found {found} times, must be once: {self.find.strip().splitlines()[0]!r}")
        path.write_text(text.replace(self.find, self.put))


class Mutant(NamedTuple):
    """One planted defect. `by`: test files or node ids that should fail, likeliest first. `area`: its list's name."""

    area: str
    name: str
    rule: str
    edits: tuple[Edit, ...]
    by: tuple[str, ...]
    seeds: bool = False  # when no test fails, the whole cluster in the simulator is asked too


def load() -> list[Mutant]:
    """All of them, in the order of the files."""
    mutants = []
    for path in sorted(PLANTED.glob("*.toml")):
        for told in tomllib.loads(path.read_text())["mutant"]:
            edits = tuple(Edit(e.get("file", told["file"]), e["find"], e["put"]) for e in (told, *told.get("also", ())))
            by, seeds = tuple(told["by"]), told.get("seeds", False)
            mutants.append(Mutant(path.stem[2:], told["name"], told["rule"], edits, by, seeds))
    return mutants
