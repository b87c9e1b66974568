"""The contract of the ObjectStore port, on every home of it and on the twin."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from groundwork.adapters.objects.directory import DirectoryStore
from groundwork.adapters.objects.s3 import ObstoreStore
from groundwork.adapters.workers import ThreadWorkers
from groundwork.core.errors import AlreadyExists, BadInput, NotFound
from groundwork.core.ports import ObjectStore
from groundwork.sim.objects import Bucket, SimObjectStore

Scenario = Callable[[ObjectStore], Awaitable[None]]
Run = Callable[[Scenario], None]


@pytest.fixture(params=["directory", "obstore", "sim"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Run]:
    """Runs a scenario on a fresh store."""
    workers = ThreadWorkers("store", 4)

    def go(scenario: Scenario) -> None:
        async def main() -> None:
            if request.param == "directory":
                await scenario(DirectoryStore(tmp_path, workers))
            elif request.param == "obstore":
                memory = MemoryStore()
                await scenario(ObstoreStore(memory, memory))
            else:
                await scenario(SimObjectStore(Bucket()))

        asyncio.run(main())

    yield go
    workers.close()


def test_what_was_created_is_read_back(run: Run) -> None:
    """A body comes back whole, also an empty one and one larger than a single read or write."""

    async def scenario(store: ObjectStore) -> None:
        for key, body in {"a/b/c": b"one", "a/empty": b"", "big": bytes(range(256)) * 40_000}.items():
            await store.create(key, body)
            assert await store.get(key) == body

    run(scenario)


def test_many_are_read_back_in_order(run: Run) -> None:
    """get_many answers for each key in its place, None where there is no object; no keys, no answers."""

    async def scenario(store: ObjectStore) -> None:
        for n in range(0, 20, 2):
            await store.create(f"many/{n:02d}", b"%d" % n)
        found = await store.get_many([f"many/{n:02d}" for n in range(20)])
        assert list(found) == [b"%d" % n if n % 2 == 0 else None for n in range(20)]
        assert list(await store.get_many([])) == []
        with pytest.raises(BadInput):
            await store.get_many(["many/00", "../outside"])

    run(scenario)


def test_create_never_replaces(run: Run) -> None:
    """Put-if-absent: the second create raises AlreadyExists, and the first body stays."""

    async def scenario(store: ObjectStore) -> None:
        await store.create("k/1", b"first")
        with pytest.raises(AlreadyExists):
            await store.create("k/1", b"second")
        with pytest.raises(AlreadyExists):
            await store.create("k/1", b"first")
        assert await store.get("k/1") == b"first"

    run(scenario)


def test_of_many_that_create_one_name_one_wins(run: Run) -> None:
    """Of 32 racing creates of one name exactly one succeeds, and its body is what everybody reads."""

    async def scenario(store: ObjectStore) -> None:
        bodies = [f"writer {n}".encode() * 1000 for n in range(32)]
        outcomes = await asyncio.gather(*(store.create("race/x", b) for b in bodies), return_exceptions=True)
        won = [n for n, o in enumerate(outcomes) if o is None]
        assert len(won) == 1
        assert all(o is None or isinstance(o, AlreadyExists) for o in outcomes)
        assert await store.get("race/x") == bodies[won[0]]

    run(scenario)


def test_absent_is_not_found(run: Run) -> None:
    """A name that was never created, and a folder, are NotFound."""

    async def scenario(store: ObjectStore) -> None:
        await store.create("folder/key", b"x")
        for key in ("nothing", "folder", "folder/other", "folder/key/below"):
            with pytest.raises(NotFound):
                await store.get(key)

    run(scenario)


def test_listing_is_sorted_complete_and_by_folder(run: Run) -> None:
    """A listing holds exactly the keys under the folder, sorted as strings, after `start_after` only."""

    async def scenario(store: ObjectStore) -> None:
        keys = [f"a/{n:03d}" for n in range(20)] + ["a/trim/007", "a/b-c/1", "ab/1", "b"]
        for key in reversed(keys):
            await store.create(key, b"x")
        under = sorted(k for k in keys if k.startswith("a/"))
        assert await store.list("a/") == under
        assert await store.list("") == sorted(keys)
        assert await store.list("a/", "a/009") == [k for k in under if k > "a/009"]
        assert await store.list("a/", "a/0095") == [k for k in under if k > "a/0095"]
        assert await store.list("a/", "a/trim/007") == []
        assert await store.list("a/trim/") == ["a/trim/007"]
        assert await store.list("nothing/") == []

    run(scenario)


def test_a_listing_shows_what_was_created_before_it(run: Run) -> None:
    """Strong consistency: a create that returned is in the next listing; a delete that returned is not."""

    async def scenario(store: ObjectStore) -> None:
        for n in range(20):
            await store.create(f"s/{n:02d}", b"x")
            assert len(await store.list("s/")) == n + 1
        await store.delete([f"s/{n:02d}" for n in range(15)])
        assert await store.list("s/") == [f"s/{n:02d}" for n in range(15, 20)]

    run(scenario)


def test_delete_frees_a_name_and_ignores_absent_keys(run: Run) -> None:
    """Deleting what is absent is fine; a deleted name can be created again."""

    async def scenario(store: ObjectStore) -> None:
        await store.create("d/1", b"x")
        await store.delete(["d/1", "d/2", "nothing/at/all"])
        with pytest.raises(NotFound):
            await store.get("d/1")
        await store.create("d/1", b"y")
        assert await store.get("d/1") == b"y"
        await store.delete([])

    run(scenario)


@pytest.mark.parametrize(
    "key", ["", "/a", "a/", "a//b", "../a", "a/../b", ".tmp/x", "a/.hidden", "a b", "ä", "x" * 901]
)
def test_a_key_that_could_leave_its_folder_is_refused(run: Run, key: str) -> None:
    """Keys are checked before anything is touched, the same on every home."""

    async def scenario(store: ObjectStore) -> None:
        with pytest.raises(BadInput):
            await store.create(key, b"x")
        with pytest.raises(BadInput):
            await store.get(key)
        with pytest.raises(BadInput):
            await store.delete([key])
        assert await store.list("") == []

    run(scenario)


def test_a_prefix_is_a_folder(run: Run) -> None:
    """A prefix without its '/' would mean different things on different homes."""

    async def scenario(store: ObjectStore) -> None:
        for prefix in ("a", "../", "a/../"):
            with pytest.raises(BadInput):
                await store.list(prefix)

    run(scenario)
