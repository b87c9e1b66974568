"""Every story in scenarios/ comes out as written."""

from pathlib import Path

import pytest

from tests.core.metasrv.scenario import run_file

FILES = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_scenario(path: Path, request: pytest.FixtureRequest) -> None:
    """The commands of a scenario print what the file says, in order."""
    wrong = run_file(path, request.config.getoption("--rewrite", default=False))
    said = "\n\n".join(
        f"{path.name}:{line}: {asked}\nwant:\n  " + "\n  ".join(want) + "\ngot:\n  " + "\n  ".join(got)
        for line, asked, want, got in wrong
    )
    assert not wrong, said
