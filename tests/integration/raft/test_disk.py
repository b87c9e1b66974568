"""The calls that change files: what the system refuses reaches the caller."""

import errno
import os
from pathlib import Path

import pytest

from metasrv.adapters.raft.disk import Disk


def _fails(_descriptor: int) -> None:
    raise OSError(errno.EIO, "the medium failed")


@pytest.mark.parametrize("call", ["fdatasync", "fsync"])
def test_a_sync_error_reaches_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """T5: an fsync error is never survived, neither of a file nor of a folder: the pages may be gone for good."""
    disk = Disk()
    descriptor = disk.open(tmp_path / "file", create=True)
    monkeypatch.setattr(os, call, _fails)
    with pytest.raises(OSError, match="medium"):
        if call == "fdatasync":
            disk.sync(descriptor)
        else:
            disk.sync_folder(tmp_path)
    disk.close(descriptor)
