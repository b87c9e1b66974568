"""The start-up assertion: the library is byte for byte the one that was read, simulated and hardened.

We override and read private names of it. A quiet upgrade would break safety without breaking a test that anyone runs,
so another source text refuses to start.
"""

import hashlib
from pathlib import Path

from groundwork.core.check import require

VERSION = "0.3.17"
SOURCES = {
    "syncobj.py": "e8bdf06797085d734df86e24ab4802fe87893dff77268565ec036f7ad4a1cfe4",
    "node.py": "e4a3f027cd8291f558334bb9c977e952f6b6989e7e1fa1588d3005ef0b990e2c",
    "transport.py": "0c9d89f9c4781ec9772df8011d7975a1a4a1a5f541357e12eae85a813e92b50b",
}
OVERRIDDEN = (
    "_SyncObj__doApplyCommand",
    "_SyncObj__sendAppendEntries",
    "_SyncObj__applyLogEntries",
    "_SyncObj__tryLogCompaction",
    "_checkCommandsToApply",
)
CALLED = (
    "_SyncObj__sendNextNodeIdx",
    "_SyncObj__setState",
    "_SyncObj__generateRaftTimeout",
    "doTick",
)
FIELDS = (
    "_SyncObj__noopIDx",
    "_SyncObj__raftCommitIndex",
    "_SyncObj__raftCurrentTerm",
    "_SyncObj__raftElectionDeadline",
    "_SyncObj__raftLastApplied",
    "_SyncObj__raftLeader",
    "_SyncObj__raftMatchIndex",
    "_SyncObj__raftNextIndex",
    "_SyncObj__raftState",
    "_SyncObj__serializer",
    "_SyncObj__transferInProgress",
    "_poller",
)


def check_source(folder: Path, expected: dict[str, str] = SOURCES) -> None:
    """Raise InvariantViolated unless every source file in `folder` has the hash it is known by."""
    for name, known in expected.items():
        found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        require(
            found == known,
            f"pysyncobj/{name} has sha256 {found}, not {known} of version {VERSION}: the Raft core is not the one this "
            "program hardens. Install the locked version; to upgrade it, read docs/decisions/0001 first",
        )


def check_class(core: type) -> None:
    """Raise InvariantViolated unless the names that we override or call exist."""
    for name in OVERRIDDEN + CALLED:
        require(hasattr(core, name), f"pysyncobj has no {name}: the Raft core is not the one this program hardens")


def check_instance(core: object) -> None:
    """Raise InvariantViolated unless the fields that we read or set exist."""
    for name in FIELDS:
        require(hasattr(core, name), f"pysyncobj has no field {name}: not the one this program hardens")
