"""Lanes in object storage, rule by rule: damage, foreign bodies, lost replies, deadlines, bounds."""

import asyncio

import pytest

from groundwork.adapters.lanes.format import FORMAT_VERSION, ObjectKind, encode_object
from groundwork.adapters.lanes.objects import ObjectsLog
from groundwork.adapters.lanes.places import WINDOW_MAX, Limits
from groundwork.core.check import InvariantViolated
from groundwork.core.errors import AlreadyExists, Damaged, NewerFormat, StoreUnavailable, Trimmed
from groundwork.core.ports import Chunk
from groundwork.sim.clock import SimClock, run_sim
from groundwork.sim.objects import Bucket, Faults, SimObjectStore
from groundwork.sim.workers import InlineWorkers
from tests.core.storage.lane_world import LANE, World


def _key(seq: int) -> str:
    return f"lanes/{LANE}/{seq:020d}"


async def _lane_of(world: World, entries: int) -> None:
    writer = await world.process().open_writer(LANE, lambda _p, _e: None)
    writer.admit()
    for n in range(entries):
        assert await writer.append(f"{n}".encode()) == n + 1
    await writer.close()


async def _read(log: ObjectsLog, start: int, end: int | None) -> list[Chunk]:
    return [chunk async for chunk in log.read(LANE, start, end)]


@pytest.mark.parametrize("cut", [0, 3, 55, 56, -1])
def test_a_half_written_object_is_reported_never_skipped(cut: int) -> None:
    """P1: an object that lost its tail is yielded as damage in its place, and the others are read."""

    async def main() -> None:
        world = World()
        await _lane_of(world, 3)
        world.bucket.objects[_key(2)] = world.bucket.objects[_key(2)][:cut]
        chunks = await _read(world.process(), 1, 4)
        assert [c.position for c in chunks] == [1, 2, 3]
        assert [c.damage is None for c in chunks] == [True, False, True]

    run_sim(main())


def test_every_flipped_bit_is_found() -> None:
    """The checksum covers header and body alike, but for the four bytes that are not used."""

    async def main() -> None:
        world = World()
        await _lane_of(world, 1)
        whole = world.bucket.objects[_key(1)]
        for at in [n for n in range(len(whole)) if not 52 <= n < 56 and n != 3]:
            flipped = bytearray(whole)
            flipped[at] ^= 1
            world.bucket.objects[_key(1)] = bytes(flipped)
            assert [c.damage is None for c in await _read(world.process(), 1, 2)] == [False], at

    run_sim(main())


def test_an_object_that_was_moved_is_damage() -> None:
    """An object names its lane and seq: a copy under another name is not believed."""

    async def main() -> None:
        world = World()
        await _lane_of(world, 3)
        world.bucket.objects[_key(2)] = world.bucket.objects[_key(3)]
        assert [c.damage is None for c in await _read(world.process(), 1, None)] == [True, False, True]

    run_sim(main())


def test_a_newer_releases_object_is_refused_with_a_message() -> None:
    """A newer format than known is no damage: it says which release can read it."""

    async def main() -> None:
        world = World()
        await _lane_of(world, 1)
        raw = bytearray(world.bucket.objects[_key(1)])
        raw[3] = FORMAT_VERSION + 1
        world.bucket.objects[_key(1)] = bytes(raw)
        with pytest.raises(NewerFormat, match="run the newer release"):
            await _read(world.process(), 1, 2)

    run_sim(main())


def test_a_missing_object_below_the_end_is_an_error() -> None:
    """P1: a position that must exist and is absent raises, whatever deleted it."""

    async def main() -> None:
        world = World()
        await _lane_of(world, 4)
        end = await world.seal(world.process())
        del world.bucket.objects[_key(2)]
        with pytest.raises(Trimmed, match="must exist"):
            await _read(world.process(), 1, end)

    run_sim(main())


def test_a_foreign_object_in_the_writers_place_stops_it() -> None:
    """Hole 2: an object that is neither mine nor a SEAL is never taken for one's own retry."""

    async def main() -> None:
        world = World()
        writer = await world.process().open_writer(LANE, lambda _p, _e: None)
        writer.admit()
        await writer.append(b"mine")
        world.bucket.objects[_key(2)] = encode_object(ObjectKind.DATA, LANE, 2, b"f" * 16, [b"mine"])
        with pytest.raises(Damaged):
            await writer.append(b"mine")
        with pytest.raises(Damaged):
            await writer.append(b"later")
        await writer.close()

    run_sim(main())


def test_a_second_process_cannot_open_the_lane() -> None:
    """One writer in a lane's whole life, also where two processes believe in the same incarnation."""

    async def main() -> None:
        world = World()
        await world.process().open_writer(LANE, lambda _p, _e: None)
        with pytest.raises(Damaged, match="opened by another process"):
            await world.process().open_writer(LANE, lambda _p, _e: None)

    run_sim(main())


def test_opening_again_after_an_unknown_outcome_is_the_same_open() -> None:
    """Hole 16: an OPEN whose reply was lost is tried again with the same body, and is one's own."""

    async def main() -> None:
        world = World(Limits(settle_ms=0))
        faults = Faults(lose_replies=1)
        log = world.process(faults)
        with pytest.raises(StoreUnavailable):
            await log.open_writer(LANE, lambda _p, _e: None)
        writer = await log.open_writer(LANE, lambda _p, _e: None)
        writer.admit()
        assert await writer.append(b"x") == 1
        with pytest.raises(InvariantViolated, match="has a writer already"):
            await log.open_writer(LANE, lambda _p, _e: None)
        await writer.close()

    run_sim(main())


def test_a_conflict_without_a_winner_is_tried_again() -> None:
    """Two creates that meet may both be refused by S3 with nothing stored: tried again, with pauses and an end."""

    class Conflicting(SimObjectStore):
        async def create(self, key: str, body: bytes) -> None:
            if self.bucket.creates < 5:
                self.bucket.creates += 1
                raise AlreadyExists(key)
            await super().create(key, body)

    async def main() -> None:
        bucket = Bucket()
        for limits, outcome in ((Limits(settle_ms=0), "not known"), (Limits(), "")):
            log = ObjectsLog(Conflicting(bucket), SimClock(), InlineWorkers(), limits)
            if outcome:
                with pytest.raises(StoreUnavailable, match=outcome):
                    await log.seal(LANE)
            else:
                assert await log.seal(LANE) == 0

    run_sim(main())


def test_an_append_that_gave_up_still_reaches_the_sink_in_its_place() -> None:
    """Hole 11: memtables are filled in lane order with all that became durable, acknowledged or not."""

    async def main() -> None:
        world = World(Limits(window=2, object_bytes=1, append_ms=1_000))
        faults = Faults()
        sunk: list[tuple[int, bytes]] = []
        log = world.process(faults)
        writer = await log.open_writer(LANE, lambda p, e: sunk.append((p, e[0])))
        writer.admit()
        await writer.append(b"a")
        faults.hang = True
        answers = await asyncio.gather(*(writer.append(e) for e in (b"b", b"c", b"d")), return_exceptions=True)
        assert [type(a) for a in answers] == [StoreUnavailable] * 3
        assert sunk == [(1, b"a")]
        faults.heal()
        assert await writer.append(b"e") == 4  # b"d" had given up before it was sent, and was dropped
        assert sunk == [(1, b"a"), (2, b"b"), (3, b"c"), (4, b"e")]
        await writer.close()

    run_sim(main())


def test_acknowledged_as_a_contiguous_prefix() -> None:
    """A put that landed is not acknowledged while an earlier one is missing: a seal would cut it off."""

    async def main() -> None:
        world = World(Limits(window=3, object_bytes=1))
        slow = asyncio.Event()

        async def gate(operation: str, key: str, moment: str) -> None:
            if key == _key(1) and moment == "before":
                await slow.wait()

        writer = await world.process(gate=gate).open_writer(LANE, lambda _p, _e: None)
        writer.admit()
        appends = [asyncio.ensure_future(writer.append(e)) for e in (b"1", b"2", b"3", b"4")]
        await asyncio.wait(appends, timeout=5)
        assert _key(2) in world.bucket.objects
        assert _key(3) in world.bucket.objects
        assert _key(4) not in world.bucket.objects, "the window counts from what is acknowledged"
        assert not any(a.done() for a in appends)
        assert (writer.durable_position, writer.next_position) == (1, 4)
        slow.set()
        assert await asyncio.gather(*appends) == [1, 2, 3, 4]
        await writer.close()

    run_sim(main())


def test_what_waits_is_bounded() -> None:
    """A store that hangs does not fill the memory: past the limit an append is refused at once."""

    async def main() -> None:
        world = World(Limits(queue_bytes=1_000, append_ms=1_000))
        faults = Faults()
        writer = await world.process(faults).open_writer(LANE, lambda _p, _e: None)
        writer.admit()
        faults.hang = True
        first = asyncio.ensure_future(writer.append(b"x" * 900))
        await asyncio.sleep(0)
        with pytest.raises(StoreUnavailable, match="limit"):
            await writer.append(b"y" * 200)
        with pytest.raises(StoreUnavailable, match="may still become durable"):
            await first
        faults.heal()
        assert await writer.append(b"y" * 50) > 0
        assert await writer.append(b"y" * 1_000) > 0  # and what was given up and sent is no longer counted
        await writer.close()

    run_sim(main())


def test_debris_above_a_seal_is_never_read_and_never_moves_the_end() -> None:
    """A zombie's puts land above the SEAL, as many as it may have in flight: the first SEAL is the end for all."""

    async def main() -> None:
        world = World(Limits(window=WINDOW_MAX))
        await _lane_of(world, 2)
        end = await world.process().seal(LANE)
        for seq in range(end + 1, end + WINDOW_MAX):
            world.bucket.objects[_key(seq)] = encode_object(ObjectKind.DATA, LANE, seq, b"z" * 16, [b"debris"])
        assert [await world.process().seal(LANE) for _ in range(3)] == [end] * 3
        assert [c.position for c in await _read(world.process(), 1, None)] == [1, 2]

    run_sim(main())


def test_a_read_raises_when_it_is_overtaken_by_a_trim() -> None:
    """Hole 2: the marker is read again after an absent key, so a reader never skips what was trimmed under it."""

    async def main() -> None:
        world = World(Limits(read_ahead=1))
        await _lane_of(world, 8)
        chunks = world.process().read(LANE, 1, None)
        assert (await anext(chunks)).position == 1
        await world.process().trim(LANE, 7)
        with pytest.raises(Trimmed):
            async for _ in chunks:
                pass

    run_sim(main())


def test_a_trim_never_deletes_marks_and_never_passes_the_end() -> None:
    """Hole 2: OPEN and SEAL stay for ever, also when an order asks for more than there is."""

    async def main() -> None:
        world = World()
        await _lane_of(world, 5)
        await world.process().trim(LANE, 100)
        end = await world.seal(world.process())
        assert end == 6
        await world.process().trim(LANE, 100)
        assert sorted(world.bucket.objects) == sorted([_key(0), _key(6), f"lanes/{LANE}/trim/{6:020d}"])
        assert await world.process().seal(LANE) == 6

    run_sim(main())


def test_a_close_that_is_cancelled_leaves_no_put_behind() -> None:
    """Whoever closes a writer and is cancelled himself still ends its tasks: no put is repeated for ever."""

    async def main() -> None:
        faults = Faults()
        writer = await World().process(faults).open_writer(LANE, lambda _p, _e: None)
        writer.admit()
        faults.unreachable = True
        waiting = asyncio.create_task(writer.append(b"x" * 8))
        await asyncio.sleep(0.1)
        closing = asyncio.create_task(writer.close())
        await asyncio.sleep(0.1)
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        await asyncio.sleep(60)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run_sim(main())


def test_a_second_close_after_one_that_was_cancelled_ends_at_once() -> None:
    """Entries that never got their turn are answered by the first close; the second has nothing to turn about for."""

    async def main() -> None:
        faults = Faults()
        writer = await World().process(faults).open_writer(LANE, lambda _p, _e: None)
        writer.admit()
        faults.unreachable = True
        waiting = []
        for _ in range(WINDOW_MAX + 2):  # a turn for each, so that the last ones stay queued behind the window
            waiting.append(asyncio.create_task(writer.append(b"x" * 8)))
            await asyncio.sleep(0.01)
        closing = asyncio.create_task(writer.close())
        await asyncio.sleep(0.1)
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        async with asyncio.timeout(1):
            answers = await asyncio.gather(*waiting, return_exceptions=True)
            assert [type(answer) for answer in answers] == [StoreUnavailable] * len(waiting)
            await writer.close()

    run_sim(main())
