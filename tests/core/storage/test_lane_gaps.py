"""The end of a lane whose writer left a gap, or goes on: the SEAL takes the lowest absent seq, and it is the end."""

import asyncio

import pytest

from groundwork.adapters.lanes.places import Limits
from groundwork.core.errors import Sealed
from groundwork.sim.clock import run_sim
from tests.core.storage.lane_world import LANE, World


def _key(seq: int) -> str:
    return f"lanes/{LANE}/{seq:020d}"


def test_p2_a_live_writer_is_out_after_the_seal() -> None:
    """P2: its next append meets the SEAL, is not acknowledged and reaches no sink; the end stays where it was."""

    async def main() -> None:
        world = World()
        writer = await world.process().open_writer(LANE, world._sink)
        writer.admit()
        assert await writer.append(b"kept") == 1
        assert await world.seal(world.process()) == 2
        with pytest.raises(Sealed):
            await writer.append(b"too late")
        assert sorted(world.sunk) == [1]
        assert await world.process().seal(LANE) == 2
        await writer.close()

    run_sim(main())


def test_p1_the_seal_takes_the_gap_that_a_dead_writer_left() -> None:
    """P1: seq 2 never landed and 3 did: nothing above 1 was acknowledged, so the lane ends at 2 and reads whole."""

    async def main() -> None:
        world = World(Limits(window=3, object_bytes=1, append_ms=1_000))

        async def gate(operation: str, key: str, moment: str) -> None:
            if key == _key(2) and moment == "before":
                await asyncio.Event().wait()  # its process dies with this put still inside

        writer = await world.process(gate=gate).open_writer(LANE, world._sink)
        writer.admit()
        appends = [asyncio.ensure_future(world._append(writer, e)) for e in (b"1", b"2", b"3")]
        await asyncio.wait(appends, timeout=0.5)
        assert _key(3) in world.bucket.objects
        assert await world.seal(world.process()) == 2
        await asyncio.gather(*appends)
        await writer.close()
        await world.check()
        assert sorted(world.acked) == [1]

    run_sim(main())


def test_p1_the_seal_takes_the_trim_marker_itself_where_nothing_is_there() -> None:
    """HOLES, second pass 4: the marker is the first seq kept, and may be absent: the lane ends there, not above."""

    async def main() -> None:
        world = World()
        writer = await world.process().open_writer(LANE, world._sink)
        writer.admit()
        for n in range(3):
            await world._append(writer, f"{n}".encode())
        await writer.close()
        await world.trim(world.process(), 4)
        assert await world.seal(world.process()) == 4
        await world.check()

    run_sim(main())
