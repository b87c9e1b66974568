"""From acks and events to RTO and phases."""

import json

from metactl.picture import BIN_MS, rates
from metactl.report import result, to_json
from metactl.timeline import Ack, Fault, Happening, percentile, phases_ms, rto_by_region, writes_again
from metactl.verify import Verdict

FAULT = Fault("node", ("dn-1",), began_ms=1_000.0, ended_ms=1_010.0, regions=(1, 2))


def test_rto_is_counted_from_the_first_signal_to_the_first_new_ack() -> None:
    """A region's RTO is its own; acks before the fault and of regions that were not hit do not count."""
    acks = [Ack(900, 950, 1, 5), Ack(1_020, 4_500, 1, 5), Ack(1_020, 5_000, 2, 5), Ack(4_600, 4_700, 1, 5),
            Ack(1_020, 1_030, 3, 5)]  # fmt: skip
    assert rto_by_region(acks, FAULT) == {1: 3_500.0, 2: 4_000.0}


def test_an_answer_that_was_on_its_way_is_no_recovery() -> None:
    """An ack that a dead process gave just before it died must not make the RTO look like nothing."""
    assert rto_by_region([Ack(995, 1_012, 1, 1)], FAULT) == {}


def test_a_request_that_waited_through_the_failover_counts() -> None:
    """Sent before the fault, held by the frontend, answered by the new owner: that is the first ack."""
    assert rto_by_region([Ack(995, 4_000, 1, 1)], FAULT) == {1: 3_000.0}


def test_writing_again_needs_an_attempt_sent_after_the_fault() -> None:
    """A region counts as writing again only by a batch that was sent afterwards."""
    assert writes_again([Ack(995, 4_000, 1, 1), Ack(1_011, 4_000, 2, 1)], FAULT) == {2}


def test_percentiles_are_values_that_were_measured() -> None:
    """Nearest rank: no interpolated figures."""
    values = [float(v) for v in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.99, 1.0)] == [50.0, 99.0, 100.0]
    assert percentile([], 0.5) == 0.0
    assert percentile([3.0], 0.99) == 3.0
    assert percentile([1.0, 2.0, 3.0], 0.5) == 2.0


def _happenings() -> list[Happening]:
    return [
        Happening(500, "suspect", "an older one", {"node_id": "dn-1"}),
        Happening(3_900, "suspect", "", {"node_id": "dn-3"}),
        Happening(4_000, "suspect", "", {"node_id": "dn-1"}),
        Happening(4_020, "failover", "", {}),
        Happening(4_200, "serving", "", {"region_ids": "1", "seal_ms": "10", "claim_ms": "20", "replay_ms": "100",
                                         "replayed_entries": "40"}),
        Happening(4_300, "serving", "", {"region_ids": "2,9", "replay_ms": "50", "replayed_entries": "2"}),
    ]  # fmt: skip


def test_phases_end_with_their_last_region() -> None:
    """suspect and decided are moments of the first event; sealed, claimed, replayed those of the slowest region."""
    acks = [Ack(900, 990, 1, 1), Ack(1_020, 4_400, 1, 1)]
    phases = phases_ms(acks, _happenings(), FAULT)
    assert phases == {
        "last_ack": -10.0, "suspect": 3_000.0, "decided": 3_020.0, "sealed": 3_250.0, "claimed": 3_250.0,
        "replayed": 3_300.0, "first_ack": 3_400.0,
    }  # fmt: skip


def test_the_json_object_has_the_promised_names() -> None:
    """`--json`: the names that programs read, figures as numbers."""
    verdict = Verdict(acked=10, read=10, lost=0, wrong=0)
    outcome = result(verdict, [Ack(1_020, 4_400, 1, 1)], _happenings(), FAULT, 3_000, moved=2)
    decoded = json.loads(to_json(outcome))
    assert decoded["replayed_entries"] == 42
    promised = ["acked", "lost", "wrong", "regions", "rto_ms_p50", "rto_ms_p99", "rto_ms_max", "lease_ms",
                "replayed_entries", "phases_ms"]  # fmt: skip
    assert list(decoded)[: len(promised)] == promised
    assert (decoded["regions"], decoded["rto_ms_max"], decoded["lease_ms"]) == (2, 3_400.0, 3_000)


def test_a_loss_makes_the_result_unclean() -> None:
    """What exit 1 hangs on: a loss, a wrong row, an acknowledging zombie."""
    for lost, wrong, zombies in ((1, 0, 0), (0, 1, 0), (0, 0, 1)):
        assert not result(Verdict(5, 5, lost, wrong), [], [], FAULT, 3_000, 0, zombies).clean
    assert result(Verdict(5, 5, 0, 0), [], [], FAULT, 3_000, 0).clean


def test_rates_are_rows_per_second_and_site() -> None:
    """The picture's bins: acks by site, per second, around the fault."""
    acks = [Ack(0, 1_000, 1, 10), Ack(0, 1_000 + BIN_MS, 2, 20)]
    seconds, by_site = rates(acks, lambda a: f"site-{a.region_id}", 1_000, 1_000 + 2 * BIN_MS, 1_000)
    assert len(seconds) == 3
    assert by_site == {"site-1": [40.0, 0.0, 0.0], "site-2": [0.0, 80.0, 0.0]}
