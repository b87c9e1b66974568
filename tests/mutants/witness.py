"""A pytest plugin of a mutant's run: the code under test must be the changed copy, not the installed project."""

import importlib
import os
from pathlib import Path

PACKAGES = ("groundwork", "metasrv", "datanode_agent", "metasrv_frontend", "metactl", "protos", "tests")


def check(root: Path) -> None:
    """Raise RuntimeError unless every package is imported from `root`."""
    for name in PACKAGES:
        origin = Path(str(importlib.import_module(name).__file__)).resolve()
        if not origin.is_relative_to(root.resolve()):
            raise RuntimeError(f"{name} comes from {origin}, not from the copy in {root}: nothing would be proved")


check(Path(os.environ["MUTANT_ROOT"]))
