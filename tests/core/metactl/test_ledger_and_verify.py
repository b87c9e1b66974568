"""The drill's books and its judge: a check that cannot fail proves nothing, so every kind of loss is planted."""

import pytest

from groundwork.core.check import InvariantViolated
from metactl.ledger import Ledger, RegionLedger, Row
from metactl.verify import Verdict, check

REGION = 7
A1 = Row("/usr/a", ".txt", 10, 100)
A2 = A1._replace(size=101)
A3 = A1._replace(size=102)
B1 = Row("/usr/b", "", 10, 5, cpu_ms=3)


def _ledger(*acked: Row, unknown: tuple[Row, ...] = ()) -> Ledger:
    ledger = Ledger([REGION])
    region = ledger.regions[REGION]
    for row in acked:
        region.attempt([row])
        region.acknowledge([row])
    for row in unknown:
        region.attempt([row])
    return ledger


def test_all_there_is_clean() -> None:
    """Every acknowledged row read back with its last value: nothing to complain about."""
    assert check(_ledger(A1, A2, B1), [A2, B1]) == Verdict(acked=2, read=2, lost=0, wrong=0)


def test_a_missing_acknowledged_row_is_lost() -> None:
    """P1: the check sees one planted loss among rows that are there."""
    verdict = check(_ledger(A1, B1), [A1])
    assert (verdict.lost, verdict.wrong, verdict.clean) == (1, 0, False)
    assert "/usr/b" in verdict.examples[0]


def test_everything_missing_is_lost() -> None:
    """An empty answer is the worst loss, not a clean one."""
    assert check(_ledger(A1, B1), []).lost == 2


def test_an_older_value_is_wrong() -> None:
    """P1: an acknowledged overwrite must not be undone by a failover."""
    assert check(_ledger(A1, A2), [A1]).wrong == 1


def test_a_later_attempt_is_allowed() -> None:
    """What was attempted after the last acknowledgement may or may not be there."""
    ledger = _ledger(A1, A2, unknown=(A3,))
    assert check(ledger, [A2]).clean
    assert check(ledger, [A3]).clean
    assert check(ledger, [A1]).wrong == 1


def test_an_unacknowledged_row_may_be_missing_or_there() -> None:
    """A row whose outcome is unknown is fine either way, and does not count as acknowledged."""
    ledger = _ledger(unknown=(A1,))
    assert check(ledger, []) == Verdict(acked=0, read=0, lost=0, wrong=0)
    assert check(ledger, [A1]).clean


@pytest.mark.parametrize(
    "planted",
    [
        Row("/usr/never", "", 10, 1),
        A1._replace(time_ns=11),
        A1._replace(suffix=".other"),
    ],
)
def test_a_row_never_attempted_is_wrong(planted: Row) -> None:
    """Nothing may be there that nobody wrote: another path, another time, another tag."""
    assert check(_ledger(A1), [A1, planted]).wrong == 1


@pytest.mark.parametrize("planted", [A1._replace(size=999), A1._replace(cpu_ms=1)])
def test_a_value_never_attempted_is_wrong(planted: Row) -> None:
    """A key that is known with a value that nobody wrote, in either field."""
    assert check(_ledger(A1), [planted]).wrong == 1


def test_a_double_is_wrong() -> None:
    """Replay must not make two rows of one key."""
    assert check(_ledger(A1), [A1, A1]).wrong == 1


def test_the_same_value_written_again_later_is_told_apart() -> None:
    """A value that comes back is allowed as the later attempt, though it was the older one once."""
    assert check(_ledger(A1, A2, unknown=(A1,)), [A1]).clean


def test_acknowledged_rows_are_counted_once() -> None:
    """`acked` counts rows, and an overwritten row is one row."""
    assert _ledger(A1, A2, A3, B1).acked_rows == 2


def test_acknowledging_what_was_never_attempted_is_a_defect() -> None:
    """The books stop the drill rather than lie."""
    with pytest.raises(InvariantViolated):
        RegionLedger(REGION).acknowledge([A1])


def test_acknowledging_an_older_attempt_is_a_defect() -> None:
    """One sender a region, one batch at a time: an ack is of the last attempt."""
    region = RegionLedger(REGION)
    region.attempt([A1])
    region.attempt([A2])
    with pytest.raises(InvariantViolated):
        region.acknowledge([A1])
