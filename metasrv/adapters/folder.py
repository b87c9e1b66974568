"""The data folder of a replica."""

from pathlib import Path

from groundwork.adapters.folder import VERSION, Identity, LockedFolder

FORMAT = "metasrv-folder"


class DataFolder(LockedFolder):
    """See groundwork.adapters.folder."""

    def __init__(self, path: Path, cluster_id: str, node_id: str) -> None:
        mine = Identity(FORMAT, VERSION, cluster_id, node_id)
        super().__init__(path, "identity.json", mine, "restore it, or start with --rejoin")

    def forget(self) -> None:
        """As in general, unless there is a journal in it."""
        if not (self.path / "raft").exists():
            super().forget()
