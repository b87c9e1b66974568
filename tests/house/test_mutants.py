"""The list of planted defects does not rot: fragments are found once, catchers exist and are those that caught."""

import ast
import re

import pytest

from tests.mutants.mutant import ROOT, Mutant, load

MUTANTS = load()


def test_there_are_enough() -> None:
    """A check that cannot fail proves nothing: at least 25 defects, each with a name of its own and a rule."""
    assert len({m.name for m in MUTANTS}) == len(MUTANTS) >= 25
    assert all(m.rule and m.by for m in MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_a_planted_defect_can_be_planted(mutant: Mutant) -> None:
    """Each fragment is in its file exactly once, changes something, and leaves Python that compiles."""
    changed: dict[str, str] = {}
    for edit in mutant.edits:
        text = changed.get(edit.file) or (ROOT / edit.file).read_text()
        assert text.count(edit.find) == 1, f"{edit.file} has changed: bring the planted defect in line with it"
        assert edit.find != edit.put
        changed[edit.file] = text.replace(edit.find, edit.put)
    for name, text in changed.items():
        compile(text, name, "exec")
    for test in mutant.by:
        path, _, name = test.partition("::")
        source = (ROOT / path).read_text()
        functions = (ast.FunctionDef, ast.AsyncFunctionDef)
        names = {n.name for n in ast.walk(ast.parse(source)) if isinstance(n, functions)}
        assert not name or re.sub(r"\[.*", "", name) in names, f"{path} has no test {name}"


def test_who_caught_a_defect_is_still_asked() -> None:
    """The table of docs/mutants.md says who caught what: those tests are among the catchers, or a change lost them."""
    told = (ROOT / "docs/mutants.md").read_text().partition("\n## The table\n")[2]
    rows = [row.strip("| ").split(" | ") for row in told.splitlines() if row.startswith("| ")]
    caught = {row[0]: "tests/" + row[2].partition("::")[0] for row in rows if ".py::" in row[2]}
    lost = {m.name: caught[m.name] for m in MUTANTS if m.name in caught and not _asked(m, caught[m.name])}
    assert caught
    assert lost == {}


def _asked(mutant: Mutant, path: str) -> bool:
    return any(test.partition("::")[0] == path for test in mutant.by)
