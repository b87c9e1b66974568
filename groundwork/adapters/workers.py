"""The Workers port on a thread pool."""

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class ThreadWorkers:
    """A bounded pool of threads."""

    def __init__(self, name: str, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` in the pool."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, functools.partial(work))

    def close(self) -> None:
        """Wait for running work and stop."""
        self._pool.shutdown()
