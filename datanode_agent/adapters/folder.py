"""The data folder of a datanode: the proof of succession, and the registration in force.

`folder.json` holds the random id that proves to metasrv that a new process is the successor of the old one.
`incarnation.json` holds the registration in force, so that `datanode-agent release` can give it back once every
process of the unit is gone.
"""

import secrets
from pathlib import Path

import msgspec

from groundwork.adapters.folder import VERSION, Identity, LockedFolder

FORMAT = "datanode-folder"


class _Registration(msgspec.Struct, frozen=True):
    format: str
    version: int
    incarnation: int


class DataFolder(LockedFolder):
    """See groundwork.adapters.folder."""

    def __init__(self, path: Path, cluster_id: str, node_id: str) -> None:
        mine = Identity(FORMAT, VERSION, cluster_id, node_id, secrets.token_hex(16))
        super().__init__(path, "folder.json", mine, "a datanode keeps no data here, start with an empty data_dir")
        self._registration = path / "incarnation.json"

    @property
    def folder_id(self) -> str:
        """The id that the folder was given when it was made."""
        return self.held.folder_id

    def incarnation(self) -> int | None:
        """The registration that is not released yet, or None."""
        held = self.read(self._registration, _Registration)
        if held is None:
            return None
        self.check_format(self._registration, held.format, held.version)
        return held.incarnation

    def registered(self, incarnation: int) -> None:
        """Remember the registration in force. Raises BadInput."""
        self.write(self._registration, _Registration(FORMAT, VERSION, incarnation))

    def released(self) -> None:
        """Forget it: metasrv knows that it is over."""
        self._registration.unlink(missing_ok=True)
