"""What the stories share."""

from collections.abc import Iterator

import pytest

from tests.sim.traps.told import Teller


@pytest.fixture(scope="session")
def teller() -> Iterator[Teller]:
    """Tells stories in a process where sets of strings have one order."""
    child = Teller()
    yield child
    child.close()
