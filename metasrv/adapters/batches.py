"""Many small submissions, few commands: with so many commits in flight, what arrives meanwhile makes up the next."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from groundwork.core.errors import Unknown

T = TypeVar("T")


class Batcher(Generic[T]):
    """`commit(items)` returns the revision under which they are applied, or raises for all of them."""

    def __init__(self, commit: Callable[[Sequence[T]], Awaitable[int]], items_max: int, waiting_max: int,
                 commits_max: int = 1) -> None:  # fmt: skip
        self._commit = commit
        self._items_max = items_max
        self._waiting_max = waiting_max
        self._waiting: list[tuple[Sequence[T], asyncio.Future[int]]] = []
        self._held = 0
        self._commits_max = commits_max
        self._tasks: set[asyncio.Task[None]] = set()
        self._gathering = False  # a task is there that has not begun to take

    async def submit(self, items: Sequence[T]) -> int:
        """The revision at which these are applied. Raises what the commit raised, Unknown when too many wait."""
        if self._held + len(items) > self._waiting_max and self._waiting:
            raise Unknown(f"{self._held} reports wait already: send these again")
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((items, future))
        self._held += len(items)
        if not self._gathering and len(self._tasks) < self._commits_max:
            self._gathering = True
            self._tasks.add(asyncio.create_task(self._run(), name="batch"))
        return await future

    async def _run(self) -> None:
        try:
            await asyncio.sleep(0)  # let those who are ready in this turn of the loop join
            self._gathering = False
            while self._waiting:
                batch = self._take()
                items = [item for group, _ in batch for item in group]
                try:
                    revision = await self._commit(items)
                except Exception as error:  # noqa: BLE001  every caller gets it, and decides
                    for _, future in batch:
                        if not future.done():
                            future.set_exception(error)
                else:
                    for _, future in batch:
                        if not future.done():
                            future.set_result(revision)
        finally:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.discard(task)

    def _take(self) -> list[tuple[Sequence[T], "asyncio.Future[int]"]]:
        taken: list[tuple[Sequence[T], asyncio.Future[int]]] = []
        count = 0
        while self._waiting and (not taken or count + len(self._waiting[0][0]) <= self._items_max):
            entry = self._waiting.pop(0)
            taken.append(entry)
            count += len(entry[0])
        self._held -= count
        return taken
