"""The threads behind the Workers port: every caller gets its own outcome, and nobody waits for nothing."""

import asyncio
import threading

import pytest

from groundwork.adapters.workers import ThreadWorkers


def test_outcomes_reach_their_callers() -> None:
    """Values and errors of many calls at once go to whoever asked for them, from one loop after another."""

    async def scenario() -> None:
        def fail() -> None:
            raise ValueError("mine")

        values = await asyncio.gather(*(workers.run(lambda n=n: n * n) for n in range(500)))  # type: ignore[misc]
        assert values == [n * n for n in range(500)]
        with pytest.raises(ValueError, match="mine"):
            await workers.run(fail)

    workers = ThreadWorkers("test", 3)
    asyncio.run(scenario())
    asyncio.run(scenario())
    workers.close()


def test_cancelled_work_is_not_begun() -> None:
    """What waits for a thread when its caller is cancelled is never done; what runs is finished, and close waits."""
    done: list[str] = []

    async def scenario() -> None:
        begun, gate = threading.Event(), threading.Event()

        def first() -> None:
            begun.set()
            gate.wait(10)
            done.append("first")

        tasks = [asyncio.ensure_future(workers.run(work)) for work in (first, lambda: done.append("second"))]
        await asyncio.to_thread(begun.wait, 10)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        gate.set()
        await workers.run(lambda: done.append("third"))

    workers = ThreadWorkers("test", 1)
    asyncio.run(scenario())
    workers.close()
    assert done == ["first", "third"]


def test_work_that_outlives_its_loop() -> None:
    """A thread whose loop is closed when it is done goes on with other work; after close, run refuses."""

    async def give_up() -> None:
        task = asyncio.ensure_future(workers.run(lambda: gate.wait(10)))
        await asyncio.sleep(0.01)
        task.cancel()

    async def again() -> int:
        return await workers.run(lambda: 7)

    gate = threading.Event()
    workers = ThreadWorkers("test", 1)
    asyncio.run(give_up())
    gate.set()
    assert asyncio.run(again()) == 7
    workers.close()
    with pytest.raises(RuntimeError, match="closed"):
        asyncio.run(again())
