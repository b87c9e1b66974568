"""The shape of the source tree: small files, small functions, no leftovers."""

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60


def _sources() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    return [ROOT / name for name in listed if "_pb2" not in name and (ROOT / name).exists()]


def test_there_is_something_to_check() -> None:
    """The listing works: a tidy test over nothing would always pass."""
    assert len(_sources()) > 20


@pytest.mark.parametrize("path", _sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_file_is_tidy(path: Path) -> None:
    """No file over 400 lines, no function over 60 (its docstring aside), no leftover markers."""
    text = path.read_text()
    assert text.count("\n") <= FILE_LINES_MAX, "split it by subject"
    assert "asyncio." + "wait_for(" not in text, "it swallows a cancellation on Python 3.11: asyncio.timeout"
    for marker in ("TO" + "DO", "FIX" + "ME", "X" + "XX"):
        assert marker not in text, f"{marker}: do it, or write an issue"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node) or ""
            lines = (node.end_lineno or 0) - node.lineno + 1 - (docstring.count("\n") + 1 if docstring else 0)
            assert lines <= FUNCTION_LINES_MAX, f"{node.name} has {lines} lines: split it by step"
