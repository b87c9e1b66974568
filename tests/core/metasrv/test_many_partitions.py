"""Tables of many partitions: how many one step may make, and that their placement costs no more with many nodes."""

import random

import pytest

from groundwork.core.errors import BadInput
from groundwork.core.ids import Lane
from groundwork.core.table import PARTITIONS_KEPT_MAX, PARTITIONS_MAX, check_partitions
from metasrv.core import commands as c
from metasrv.core.placement import Pool
from tests.core.metasrv.world import COLUMNS, World


def test_a_new_table_is_made_in_one_step_and_so_bounded() -> None:
    """0008: one apply stalls all else; who asks for more is told the limit and what to do instead."""
    check_partitions(1)
    check_partitions(PARTITIONS_MAX)
    for partitions in (0, PARTITIONS_MAX + 1):
        with pytest.raises(BadInput, match=f"{partitions:,} is not 1 to 4,000: .* make several tables"):
            check_partitions(partitions)


def test_a_table_from_when_more_were_allowed_is_still_read() -> None:
    """The limit is the face's: what a log or a snapshot holds is applied, on every replica alike."""
    world = World()
    world.add("dn-1", "site-1/zone-a", capacity=PARTITIONS_KEPT_MAX)
    world.run(100)
    outcome = world.propose(
        c.CreateTable(
            name="wide", columns=COLUMNS, partitions=PARTITIONS_KEPT_MAX, placement=(0,) * PARTITIONS_KEPT_MAX,
            lanes=(Lane("dn-1", world.agents["dn-1"].incarnation, 0),), wall_ms=world.wall,
        )
    )  # fmt: skip
    assert not outcome.refused
    world.machine.restore(world.machine.snapshot())
    assert len(world.machine.state.regions) == PARTITIONS_KEPT_MAX


@pytest.mark.parametrize("seed", range(5))
def test_spreading_many_is_taking_one_so_many_times(seed: int) -> None:
    """The same lanes in the same order, whatever the nodes' room, lanes, rest and doubts; until nothing has room."""
    chance = random.Random(seed)
    world = World()
    for n in range(6):
        world.add(f"dn-{n}", f"site-{n % 2}/zone-a", lanes=chance.choice((1, 3)), capacity=chance.choice((5, 40, 60)))
    world.run(600)
    state = world.machine.state

    def pool() -> Pool:
        drawn = random.Random(f"{seed}/flags")
        made = Pool(state, world.book.inventory(state, world.now_ms))
        for flags in (made._settled, made._doubtful, made._heard):
            flags.update((node_id, drawn.random() < 0.5) for node_id in flags)
        return made

    one, many = pool(), pool()
    asked = one.free() + 3
    taken = [lane for _ in range(asked) if (lane := one.take(1)) is not None]
    assert len(taken) == asked - 3
    assert many.spread(asked) == taken
    assert pool().spread(7) == taken[:7]
