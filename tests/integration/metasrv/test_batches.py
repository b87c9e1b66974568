"""Reports on their way into commands: what waits for a commit in flight, and what does not."""

import asyncio
from collections.abc import Sequence

import pytest

from groundwork.core.errors import NotLeader
from metasrv.adapters.batches import Batcher


class Log:
    """Commits that end when a test says so."""

    def __init__(self) -> None:
        self.commits: list[tuple[list[int], asyncio.Future[int]]] = []

    async def commit(self, items: Sequence[int]) -> int:
        """One commit, in flight until its future has a result."""
        ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.commits.append((list(items), ended))
        return await ended

    @property
    def began(self) -> list[list[int]]:
        """What each commit holds, in the order in which they began."""
        return [items for items, _ in self.commits]


async def _turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize("commits_max", [1, 2])
def test_so_many_commits_are_in_flight_and_the_rest_makes_up_the_next(commits_max: int) -> None:
    """What comes in one turn goes together; beyond the limit it waits, and goes together again; errors reach theirs."""

    async def story() -> None:
        log = Log()
        batcher: Batcher[int] = Batcher(log.commit, 100, 1_000, commits_max)
        asked = []
        for item in range(commits_max + 2):
            asked.append(asyncio.ensure_future(batcher.submit([item])))
            if item:  # the first two come in one turn
                await _turns()
        first = [[0, 1], [2]][:commits_max]
        assert log.began == first
        log.commits[0][1].set_exception(NotLeader(None))
        await _turns()
        rest = [[2], [3]][commits_max - 1]
        assert log.began == [*first, rest]
        for revision, (_, ended) in enumerate(log.commits[1:], 7):
            ended.set_result(revision)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert [isinstance(a, NotLeader) for a in answers[:2]] == [True, True]
        assert answers[2:] == [[7], [7, 8]][commits_max - 1]
        last = asyncio.ensure_future(batcher.submit([9]))
        await _turns()
        assert log.began[-1] == [9], "an idle one begins again"
        log.commits[-1][1].set_result(20)
        assert await last == 20

    asyncio.run(story())
