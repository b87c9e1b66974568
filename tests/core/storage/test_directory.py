"""The directory store against the disk: order of syncs, full and failing disks, what a crash leaves."""

import asyncio
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from groundwork.adapters.config import ObjectStoreConfig
from groundwork.adapters.objects import open_object_store
from groundwork.adapters.objects.directory import DirectoryStore
from groundwork.adapters.objects.s3 import ObstoreStore
from groundwork.core.errors import AlreadyExists, BadInput, NotFound, StoreUnavailable
from groundwork.sim.workers import InlineWorkers


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    """A store in an empty folder."""
    return DirectoryStore(tmp_path, InlineWorkers())


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the store asks of the kernel, in order: syncs by what they sync, and links."""
    seen: list[str] = []
    fsync, link = os.fsync, os.link

    def spy_fsync(descriptor: int) -> None:
        seen.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink()}")
        fsync(descriptor)

    def spy_link(source: str, target: str) -> None:
        seen.append(f"link {target}")
        link(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "link", spy_link)
    return seen


def test_a_name_is_not_visible_before_its_bytes_are_durable(store: DirectoryStore, calls: list[str]) -> None:
    """§7: sync of the bytes, then the link that makes the name, then sync of the folder; new folders before that."""
    root = store._root
    asyncio.run(store.create("a/b/one", b"x"))
    assert calls[:2] == [f"sync {root}", f"sync {root}/a"]
    assert calls[2].startswith(f"sync {root}/.tmp/")
    assert calls[3:] == [f"link {root}/a/b/one", f"sync {root}/a/b"]
    calls.clear()
    asyncio.run(store.create("a/b/two", b"x"))
    assert [c.split("/.tmp/")[0] for c in calls] == [f"sync {root}", f"link {root}/a/b/two", f"sync {root}/a/b"]


def test_a_name_that_exists_is_durable_too_once_that_is_said(store: DirectoryStore, calls: list[str]) -> None:
    """Hole 16: AlreadyExists may mean one's own attempt, whose folder was never synced: it is synced first."""
    asyncio.run(store.create("a/one", b"x"))
    calls.clear()
    with pytest.raises(AlreadyExists):
        asyncio.run(store.create("a/one", b"y"))
    assert calls[-1] == f"sync {store._root}/a"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_failed_write_leaves_no_name(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch, number: int, tmp_path: Path
) -> None:
    """T10: on a full or failing disk a create raises StoreUnavailable, and neither name nor temporary file is left."""
    write = os.write

    def torn(descriptor: int, data: memoryview) -> int:
        if len(data) <= 500:
            raise OSError(number, os.strerror(number))
        return write(descriptor, data[:500])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", torn)
        with pytest.raises(StoreUnavailable, match="outcome is not known"):
            asyncio.run(store.create("a/one", b"x" * 900))
    with pytest.raises(NotFound):
        asyncio.run(store.get("a/one"))
    assert list((tmp_path / ".tmp").iterdir()) == []
    asyncio.run(store.create("a/one", b"y"))
    assert asyncio.run(store.get("a/one")) == b"y"


def test_after_a_failed_folder_sync_nothing_in_it_is_promised(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second sync may succeed although the first one's writes are gone: that folder takes no creates any more."""
    asyncio.run(store.create("a/one", b"x"))
    fsync = os.fsync

    def failing(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            raise OSError(errno.EIO, "Input/output error")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(StoreUnavailable):
            asyncio.run(store.create("a/two", b"x"))
    for key in ("a/two", "a/three"):
        with pytest.raises(StoreUnavailable, match="earlier sync"):
            asyncio.run(store.create(key, b"x"))
    assert asyncio.run(store.get("a/one")) == b"x"


def test_what_a_crash_leaves_is_no_object(store: DirectoryStore, tmp_path: Path) -> None:
    """A temporary file of a process that died is in no listing and under no name."""
    (tmp_path / ".tmp" / "half").write_bytes(b"half")
    asyncio.run(store.create("a/one", b"x"))
    assert asyncio.run(store.list("")) == ["a/one"]
    os.utime(tmp_path / ".tmp" / "half", (0, 0))
    (tmp_path / ".tmp" / "fresh").write_bytes(b"another process is writing this")
    DirectoryStore(tmp_path, InlineWorkers())
    assert [p.name for p in (tmp_path / ".tmp").iterdir()] == ["fresh"]


def test_the_configuration_names_exactly_one_store(tmp_path: Path) -> None:
    """Neither or both is a mistake that must not be guessed at."""
    workers = InlineWorkers()
    assert isinstance(open_object_store(ObjectStoreConfig(directory=str(tmp_path)), workers), DirectoryStore)
    s3 = ObjectStoreConfig(s3_bucket="b", s3_prefix="p", s3_endpoint="http://127.0.0.1:1", s3_region="r")
    assert isinstance(open_object_store(s3, workers), ObstoreStore)
    for config in (ObjectStoreConfig(), ObjectStoreConfig(directory="/x", s3_bucket="b")):
        with pytest.raises(BadInput, match="either"):
            open_object_store(config, workers)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BadInput, match="cannot use"):
        open_object_store(ObjectStoreConfig(directory=str(tmp_path / "file")), workers)


def test_an_s3_endpoint_that_is_away_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    """T6: a refused connection is StoreUnavailable on every operation, and a create is tried once."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    config = ObjectStoreConfig(s3_bucket="b", s3_endpoint="http://127.0.0.1:1", s3_region="r")
    store = open_object_store(config, InlineWorkers())

    async def main() -> None:
        with pytest.raises(StoreUnavailable):
            await store.create("a", b"x")

    asyncio.run(main())
