"""Rows without a time: the time that they get is theirs alone."""

from typing import Any

from groundwork.sim.workers import InlineWorkers
from metasrv_frontend.config import FrontendConfig
from metasrv_frontend.ingest import Ingest


class _Noon:
    """Wall time stands still: everything happens in one millisecond."""

    def now_ms(self) -> float:
        return 0.0

    def wall_ms(self) -> int:
        return 1_700_000_000_123

    async def sleep(self, ms: float) -> None:
        raise AssertionError("nobody waits here")


def _ingest(node_id: str) -> Ingest:
    config = FrontendConfig("0" * 32, node_id, "site-1/zone-a", "127.0.0.1:1", ["127.0.0.1:2"])
    nobody: Any = None  # no request is sent
    return Ingest(config, nobody, nobody, _Noon(), InlineWorkers())


def test_p1_two_frontends_give_two_rows_of_one_millisecond_two_times() -> None:
    """P1: rows of one series that come in one millisecond through two frontends do not replace each other."""
    given = [frontend.now_ns() for frontend in (_ingest("fe-1"), _ingest("fe-2")) for _ in range(1_000)]
    assert len(set(given)) == 2_000
    assert {ns // 1_000_000 for ns in given} == {1_700_000_000_123}, "it is the time at which they came"
