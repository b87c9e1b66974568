"""`pytest tests/core/metasrv --rewrite` writes what came out into the files: commit that only if you can explain it."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Rewriting is asked for by name."""
    parser.addoption("--rewrite", action="store_true", default=False, help="write the actual output into scenarios")
