"""The twins: virtual time, and faults that do what they say."""

import asyncio

import pytest

from groundwork.core.errors import NotFound, StoreUnavailable
from groundwork.sim.clock import NothingLeftToDo, SimClock, run_sim
from groundwork.sim.objects import Bucket, Faults, SimObjectStore


def test_virtual_time_jumps_to_the_next_timer() -> None:
    """A day passes in no time, and timers fire in order."""

    async def main() -> list[str]:
        clock, seen = SimClock(), list[str]()

        async def at(ms: float, name: str) -> None:
            await clock.sleep(ms)
            seen.append(name)

        before_ms = clock.now_ms()
        await asyncio.gather(at(86_400_000, "day"), at(1, "now"), at(3_600_000, "hour"))
        assert clock.now_ms() - before_ms == pytest.approx(86_400_000)
        return seen

    assert run_sim(main()) == ["now", "hour", "day"]


def test_a_deadlock_is_an_error() -> None:
    """Where every task waits and no timer is set, a real loop would hang for ever."""

    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(NothingLeftToDo):
        run_sim(main())


def test_clocks_may_drift_and_jump() -> None:
    """Each node's clock is its own."""

    async def main() -> None:
        true, fast = SimClock(), SimClock(offset_ms=500, rate=2.0)
        assert fast.now_ms() - true.now_ms() == pytest.approx(500)
        await true.sleep(1_000)
        assert fast.now_ms() == pytest.approx(2_500)
        await fast.sleep(1_000)
        assert true.now_ms() == pytest.approx(1_500)
        fast.jump(30_000)
        assert fast.now_ms() == pytest.approx(33_500)

    run_sim(main())


def test_a_sleep_follows_its_clock_when_that_changes_its_speed() -> None:
    """Whoever dozed off while the clock all but stood still does not sleep fifty times as long once it runs again."""

    async def main() -> None:
        clock, true, woke_ms = SimClock(rate=0.02), SimClock(), list[float]()

        async def doze() -> None:
            await clock.sleep(1_000)
            woke_ms.append(true.now_ms())

        sleepers = [asyncio.ensure_future(doze()) for _ in range(3)]
        await true.sleep(500)  # 10 ms by the slow one
        sleepers[0].cancel()
        clock.set_rate(1.0)
        await asyncio.gather(*sleepers, return_exceptions=True)
        assert woke_ms == pytest.approx([1_490, 1_490])
        began_ms = true.now_ms()
        sleeper = asyncio.ensure_future(doze())
        await true.sleep(400)
        clock.set_rate(0.5)
        await sleeper
        assert true.now_ms() - began_ms == pytest.approx(400 + 2 * 600)

    run_sim(main())


def test_a_store_can_be_away_for_one_node_only() -> None:
    """T6: one node is cut off, the others go on."""

    async def main() -> None:
        bucket, faults = Bucket(), Faults()
        cut, whole = SimObjectStore(bucket, faults), SimObjectStore(bucket)
        faults.unreachable = True
        with pytest.raises(StoreUnavailable):
            await cut.create("a", b"x")
        await whole.create("b", b"x")
        with pytest.raises(NotFound):
            await whole.get("a")
        faults.heal()
        assert await cut.get("b") == b"x"

    run_sim(main())


def test_an_ambiguous_put_may_have_landed() -> None:
    """A lost reply took effect; a late put takes effect afterwards; both say that the outcome is not known."""

    async def main() -> None:
        bucket, faults = Bucket(), Faults(lose_replies=1)
        store = SimObjectStore(bucket, faults)
        with pytest.raises(StoreUnavailable, match="reply was lost"):
            await store.create("lost", b"x")
        assert bucket.objects["lost"] == b"x"
        faults.late_puts, faults.late_ms = 1, 500
        with pytest.raises(StoreUnavailable, match="timed out"):
            await store.create("late", b"x")
        assert "late" not in bucket.objects
        await asyncio.sleep(1)
        assert bucket.objects["late"] == b"x"

    run_sim(main())


def test_a_hanging_store_goes_on_when_it_is_healed() -> None:
    """T5: calls wait, they do not fail, and then they take effect."""

    async def main() -> None:
        bucket, faults = Bucket(), Faults(hang=True, latency_ms=(1, 2))
        store = SimObjectStore(bucket, faults)
        call = asyncio.ensure_future(store.create("a", b"x"))
        await asyncio.sleep(60)
        assert not call.done()
        faults.heal()
        await call
        assert bucket.objects == {"a": b"x"}

    run_sim(main())


def test_the_same_seed_is_the_same_run() -> None:
    """Determinism: faults and latencies come from the seed alone."""

    async def main() -> list[tuple[str, float]]:
        store = SimObjectStore(Bucket(), Faults(latency_ms=(1, 50), unavailable=0.3, lost_reply=0.2), seed=7)
        clock, seen = SimClock(), list[tuple[str, float]]()
        for n in range(40):
            try:
                await store.create(f"k/{n}", b"x")
                seen.append(("done", clock.now_ms()))
            except StoreUnavailable as error:
                seen.append((str(error), clock.now_ms()))
        return seen

    assert run_sim(main()) == run_sim(main())
