"""What the documents point at exists: files, links, and a test for each promise and trap."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/*.md")])
_LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
_PATH = re.compile(
    r"`((?:groundwork|metasrv|datanode_agent|metasrv_frontend|metactl|tests|protos|deploy|docs|benchmarks)/[\w/.-]+)`"
)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_and_paths_exist(page: Path) -> None:
    """Every relative link and every path of the source tree that a page names is there."""
    text = page.read_text()
    missing = [t for t in _LINK.findall(text) if not t.startswith("http") and not (page.parent / t).exists()]
    missing += [t for t in _PATH.findall(text) if not (ROOT / t).exists()]
    assert not missing


@pytest.mark.parametrize("name", [*(f"P{n}" for n in range(1, 8)), *(f"T{n}" for n in range(1, 24))])
def test_each_promise_and_trap_is_quoted_by_a_test(name: str) -> None:
    """A promise or trap that no test names is nobody's."""
    word = re.compile(rf"\b{name}\b")
    found = [p for suffix in ("py", "txt") for p in (ROOT / "tests").rglob(f"*.{suffix}") if p.parent.name != "house"]
    assert any(word.search(p.read_text()) for p in found)
