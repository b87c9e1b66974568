"""What an order asks for may be withdrawn in the very turn in which it was begun."""

import asyncio
import inspect
from types import SimpleNamespace
from typing import Any

from datanode_agent.engine.orders import Orders


def test_work_that_is_cancelled_before_its_first_turn_is_closed() -> None:
    """Else the interpreter complains about a coroutine that nobody awaited, at a moment of its own."""

    async def run() -> str:
        orders: Any = object.__new__(Orders)
        orders._tasks = set()
        region: Any = SimpleNamespace(task=None)
        work = asyncio.sleep(60)
        orders._spawn(region, work, "open")
        region.task.cancel()
        await asyncio.wait({region.task})
        await asyncio.sleep(0)
        return inspect.getcoroutinestate(work)

    assert asyncio.run(run()) == inspect.CORO_CLOSED
