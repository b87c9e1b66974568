"""The rules by which one manifest version follows another, and the codec."""

import msgspec
import pytest

from groundwork.core.check import InvariantViolated
from groundwork.core.errors import Damaged, NewerFormat
from groundwork.core.ids import Lane, region_id
from groundwork.core.manifest import (
    Claim,
    Manifest,
    NeedSeal,
    Origin,
    Sst,
    Stay,
    Stop,
    claim,
    compacted,
    decode_manifest,
    drop,
    encode_manifest,
    flushed,
    manifest_key,
    sst_key,
    version_of,
)
from groundwork.core.table import Column, Role, Schema

SCHEMA = Schema(1, (Column("host", "string", Role.TAG), Column("ts", "timestamp_ns", Role.TIME)))
WIDER = Schema(2, (*SCHEMA.columns, Column("load", "float64", Role.FIELD, 2)))
REGION = region_id(7, 3)
ORIGIN = Origin(REGION, SCHEMA, "cpu", ("host",), 4)
A, B = Lane("a", 10, 0), Lane("b", 20, 0)


def _claim(current: Manifest | None, epoch: int, lane: Lane, position: int = 1, **more: object) -> object:
    given = {"ends": {}, "over": set(), "sealed": {}, **more}
    return claim(current, Claim(epoch, lane.node_id, f"n{epoch}", lane, position, **given), ORIGIN)  # type: ignore[arg-type]


def _owned(epoch: int = 30, lane: Lane = A, position: int = 5) -> Manifest:
    first = _claim(None, epoch, lane, position)
    assert isinstance(first, Manifest)
    return first


def _sst(epoch: int, uid: str, top: int = 9) -> Sst:
    return Sst(sst_key(REGION, epoch, uid), 10, 100, 1, 2, (epoch, 1), (epoch, top), 0, epoch)


def test_the_first_claim_opens_its_stay_before_any_append() -> None:
    """Hole 5: the claimant's lane is named from the start, from its own next position on."""
    first = _owned()
    assert (first.version, first.epoch, first.owner) == (1, 30, "a")
    assert first.stays == (Stay(A, 30, 5, None, 5),)
    assert first.table == 7


@pytest.mark.parametrize("epoch", [29, 30])
def test_a_claim_stops_at_an_epoch_not_below_its_own(epoch: int) -> None:
    """Hole 6: a late claimant of an older assignment, or the same claim twice, stops."""
    assert _claim(_owned(30), epoch, B, over={A}, sealed={A: 9})[0] == "newer_epoch"  # type: ignore[index]


def test_an_open_stay_is_closed_by_its_committed_hand_over() -> None:
    """§8: the committed position of that very stay closes it; nothing is sealed."""
    second = _claim(_owned(), 31, B, 8, ends={(A, 30): 17})
    assert isinstance(second, Manifest)
    assert second.stays == (Stay(A, 30, 5, 17, 5), Stay(B, 31, 8, None, 8))
    assert second.version == 2


def test_a_hand_over_of_another_stay_does_not_count() -> None:
    """Hole 7: positions belong to a stay (lane and claim epoch), not to a lane."""
    assert _claim(_owned(), 31, B, ends={(A, 29): 17}, over={A}) == NeedSeal(A)


def test_a_lane_that_is_not_committed_as_over_is_never_sealed() -> None:
    """§7: metasrv commits that a lane is over before anyone seals it; until then the claim stops and reports."""
    result = _claim(_owned(), 31, B)
    assert isinstance(result, Stop)
    assert result.kind == "lane_not_over"
    assert str(A) in result.reason


def test_a_lane_that_is_over_is_sealed_and_its_end_closes_the_stay() -> None:
    """§8: seal, then the end closes the stay."""
    assert _claim(_owned(), 31, B, over={A}) == NeedSeal(A)
    second = _claim(_owned(), 31, B, 8, over={A}, sealed={A: 40})
    assert isinstance(second, Manifest)
    assert second.stays[0] == Stay(A, 30, 5, 40, 5)


def test_a_to_b_to_c_before_a_flush_keeps_every_stay() -> None:
    """Hole 5: no stay is forgotten by claims that follow each other without a flush."""
    lanes = [Lane("n", k, 0) for k in range(4)]
    current = _owned(30, lanes[0], 1)
    for k in range(1, 4):
        following = _claim(current, 30 + k, lanes[k], 1, sealed={lanes[k - 1]: 10 * k}, over={lanes[k - 1]})
        assert isinstance(following, Manifest)
        current = following
    assert [(s.lane, s.epoch, s.end) for s in current.stays] == [
        (lanes[0], 30, 10), (lanes[1], 31, 20), (lanes[2], 32, 30), (lanes[3], 33, None),
    ]  # fmt: skip


def test_a_region_that_comes_back_to_a_lane_has_two_stays_in_it() -> None:
    """Hole 5: keyed by lane alone, a write was lost when a region came back."""
    b = _claim(_owned(30, A, 1), 31, B, 1, ends={(A, 30): 10})
    assert isinstance(b, Manifest)
    back = _claim(b, 32, A, 25, ends={(B, 31): 5})
    assert isinstance(back, Manifest)
    assert [s.key for s in back.stays] == [(A, 30), (B, 31), (A, 32)]


def test_a_stay_that_is_covered_to_its_end_is_dropped_by_the_claim() -> None:
    """Nothing of it needs the lane; every other stay stays."""
    current = flushed(_owned(30, A, 5), 30, "f", (), 40)
    second = _claim(current, 31, B, 1, sealed={A: 40})
    assert isinstance(second, Manifest)
    assert second.stays == (Stay(B, 31, 1, None, 1),)


def test_a_node_whose_own_lane_is_over_claims_nothing() -> None:
    """Hole 17: a lane that is over takes no region again."""
    for more in ({"over": {B}}, {"sealed": {B: 3}}):
        result = _claim(_owned(), 31, B, ends={(A, 30): 17}, **more)
        assert isinstance(result, Stop)
        assert result.kind == "lane_over"


def test_a_flush_covers_its_own_stay_and_drops_the_closed_ones() -> None:
    """Closed stays were replayed into the memtable before serving, so the first flush has all of them."""
    second = _claim(_owned(), 31, B, 8, ends={(A, 30): 17})
    assert isinstance(second, Manifest)
    third = flushed(second, 31, "f", (_sst(31, "x"),), 20, WIDER)
    assert third.stays == (Stay(B, 31, 8, None, 20),)
    assert (third.version, third.highest, third.schema) == (3, (31, 9), WIDER)
    idle = flushed(third, 31, "g", (), 50)
    assert (idle.stays[0].covered, idle.ssts, idle.highest) == (50, third.ssts, (31, 9))


def test_a_resumed_owner_flushes_under_its_new_epoch_in_the_stay_it_has() -> None:
    """Second pass 5: resuming keeps the stay and its key; only the epoch grows."""
    current = flushed(_owned(30), 35, "f", (_sst(35, "x"),), 20)
    assert current.epoch == 35
    assert current.stays == (Stay(A, 30, 5, None, 20),)


def test_covered_and_epochs_never_go_back() -> None:
    """A defect that would lose writes stops the process."""
    current = flushed(_owned(30), 30, "f", (), 20)
    with pytest.raises(InvariantViolated):
        flushed(current, 30, "g", (), 19)
    with pytest.raises(InvariantViolated):
        flushed(current, 29, "g", (), 21)
    with pytest.raises(InvariantViolated):
        compacted(current, 30, "g", {"not there"}, ())


def test_a_compaction_changes_only_ssts() -> None:
    """The stays, and so what must be replayed, are those of the version before."""
    current = flushed(_owned(30), 30, "f", (_sst(30, "a"), _sst(30, "b")), 20)
    after = compacted(current, 30, "g", {current.ssts[0].key}, (_sst(30, "c"),))
    assert [s.key[-9:-8] for s in after.ssts] == ["b", "c"]
    assert (after.stays, after.highest, after.version) == (current.stays, current.highest, current.version + 1)


def test_a_tombstone_stays_for_ever() -> None:
    """§9 drop: a claim on a dropped region stops, whatever its epoch."""
    gone = drop(_owned(30), 31, "b", "n", ORIGIN)
    assert isinstance(gone, Manifest)
    assert gone.tombstone
    assert (gone.ssts, gone.stays) == ((), ())
    assert _claim(gone, 99, B)[0] == "dropped"  # type: ignore[index]
    assert drop(gone, 99, "b", "n", ORIGIN)[0] == "dropped"  # type: ignore[index]
    assert drop(_owned(30), 30, "b", "n", ORIGIN)[0] == "newer_epoch"  # type: ignore[index]
    assert isinstance(drop(None, 31, "b", "n", ORIGIN), Manifest)


def test_the_codec_is_strict() -> None:
    """What comes back is what was written; other regions, other versions, damage and unknown fields are refused."""
    current = flushed(_owned(30), 30, "f", (_sst(30, "a"),), 20)
    raw = encode_manifest(current)
    assert decode_manifest(raw, REGION, 2) == current
    for bad in (raw[:-1], b"", b"null", b"{}", raw.replace(b'"rows":10', b'"rows":11'), raw + b"x"):
        with pytest.raises(Damaged):
            decode_manifest(bad, REGION, 2)
    for region, version in ((REGION + 1, 2), (REGION, 3)):
        with pytest.raises(Damaged, match="moved or copied"):
            decode_manifest(raw, region, version)
    with pytest.raises(NewerFormat, match="run the newer release"):
        decode_manifest(b'{"format":2,"what":"ever"}', REGION, 2)


def test_a_manifest_is_plain_json() -> None:
    """Any tool can read what a region consists of."""
    found = msgspec.json.decode(encode_manifest(_owned()))
    assert found["format"] == 1
    assert found["manifest"]["stays"] == [{"lane": ["a", 10, 0], "epoch": 30, "from": 5, "to": None, "covered": 5}]
    assert version_of(manifest_key(REGION, 12)) == 12
    assert manifest_key(REGION, 12) == "regions/7/000003/manifest/00000000000000000012"
