"""The rules of ownership, each proved needed, and together enough; and the model's claim is the built one."""

import pytest

from groundwork.core import manifest as built
from groundwork.core.ids import Lane
from groundwork.core.table import Schema
from tests.model.region_model import RegionModel
from tests.model.region_state import Bounds, Man, Process, Rules, View, World, good, start
from tests.model.search import Found, report, search

# Bounds under which each rule's absence shows, kept small so that the trace is short.
NEEDS = {
    "claim_epoch": Bounds(writes=1, flushes=0),
    "leave": Bounds(writes=2, flushes=0),
    "attempt": Bounds(flushes=0),
    "resume_keeps": Bounds(moves=1, flushes=0),
    "absorb": Bounds(flushes=0),
    "index_assign": Bounds(moves=1, flushes=0, trims=1),
    "index_stay": Bounds(writes=2, moves=2, flushes=1, trims=1),
    "trim_end": Bounds(writes=1, moves=1, flushes=0, trims=1),
    "keep_seq": Bounds(moves=1),
}
HOLDS = {
    "two moves, two writes, flush": Bounds(writes=2, moves=2, flushes=1),
    "two moves, flush, trim": Bounds(writes=1, moves=2, flushes=1, trims=1),
    "three moves": Bounds(writes=1, moves=3, flushes=0),
    "restart beside a zombie, flush": Bounds(writes=1, moves=1, flushes=1, restarts=1),
    "restart beside a zombie, trim": Bounds(writes=1, moves=0, flushes=1, trims=1, restarts=1),
    "two regions, flush": Bounds(regions=2, writes=1, moves=1, flushes=1),
}


def _search(rules: Rules, bounds: Bounds, live: bool = False) -> Found:
    return search(start(bounds), RegionModel(rules).steps, good if live else None, states_max=40_000)


@pytest.mark.parametrize("name", HOLDS)
def test_the_rules_together_hold_and_nothing_gets_stuck(name: str) -> None:
    """P1, P2: no acknowledged write is lost, no two owners acknowledge, and every region can be served again."""
    found = _search(Rules(), HOLDS[name], live=True)
    print(*report(name, found), sep="\n")
    assert found.broken is None
    assert found.exhausted


@pytest.mark.parametrize("rule", NEEDS)
def test_each_rule_is_needed(rule: str) -> None:
    """Holes 4 to 7, 10, 17, second pass 5 to 7: without any one of the rules a promise breaks."""
    found = _search(Rules()._replace(**{rule: False}), NEEDS[rule])
    print(*report(f"without {rule}", found), sep="\n")
    assert found.broken is not None
    assert found.trace


def test_nothing_is_lost_with_crashes_flushes_and_late_trims() -> None:
    """P1: a crash at any point, two flushes and two trims that may be carried out late, and twice."""
    found = _search(Rules(), Bounds(writes=2, moves=1, flushes=2, trims=2, crashes=1))
    print(*report("two flushes, trims, crash", found), sep="\n")
    assert found.broken is None
    assert found.exhausted


def test_a_lane_is_over_before_it_is_sealed_or_a_region_gets_stuck() -> None:
    """Hole 17: where nobody commits that a lane is over, regions fail back to one that a late seal then kills."""
    found = _search(Rules(over_first=False), Bounds(writes=1, moves=2, flushes=0), live=True)
    print(*report("without over_first", found), sep="\n")
    assert found.broken is not None


def test_the_built_claim_is_the_models_claim() -> None:
    """In every state that the search meets, groundwork.core.manifest.claim decides as the model does."""
    seen: set[str] = set()

    def on_claim(s: World, p: Process, r: int, v: View, outcome: Man | str) -> None:
        result = built.claim(_manifest(s.mans[r][-1]), _claim(s, p, v), built.Origin(1, Schema(1, ())))
        if isinstance(result, built.Stop):
            seen.add(result.kind)
            assert result.kind == outcome
        elif isinstance(result, built.NeedSeal):
            seen.add("seal")
            assert outcome == f"seal {(result.lane.node_id, result.lane.incarnation)}"
        else:
            seen.add("claimed")
            assert isinstance(outcome, Man)
            assert _manifest(outcome).stays == result.stays
            assert result.epoch == outcome.epoch

    for bounds in (Bounds(writes=0, moves=3, flushes=0), Bounds(writes=1, moves=0, flushes=1, restarts=1)):
        found = search(start(bounds), RegionModel(Rules(), on_claim).steps, states_max=40_000)
        assert found.broken is None
    assert seen == {"seal", "claimed", "newer_epoch"}


def _lane(p: Process) -> Lane:
    return Lane(p[0], p[1], 0)


def _manifest(man: Man) -> built.Manifest:
    stays = tuple(built.Stay(_lane(g.lane), g.epoch, g.start, g.end, g.covered) for g in man.stays)
    return built.Manifest(
        region=1, table=0, version=1, epoch=man.epoch, owner="a", nonce="n", schema=Schema(1, ()), stays=stays
    )  # fmt: skip


def _claim(s: World, p: Process, v: View) -> built.Claim:
    return built.Claim(
        v.epoch, p[0], "n", _lane(p), len(s.lane(p).entries),
        {(_lane(lane), epoch): end for (lane, epoch), end in v.ends},
        {_lane(x) for x in s.over if x != p},  # a zombie has not heard that its own lane is over
        {_lane(x): len(lane.entries) for x, lane in s.lanes if lane.sealed and x != p},
    )  # fmt: skip
