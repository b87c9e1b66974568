"""Whose a damaged entry was: a region is cleared only where its sequence runs on, within one epoch."""

from datanode_agent.core.replay import Row, unbroken


def _row(position: int, epoch: int, sequence: int, rows: int = 1) -> Row:
    return Row(position, epoch, sequence, rows, 1, b"")


def test_a_sequence_that_goes_on_under_another_epoch_clears_nothing() -> None:
    """Under a new epoch the sequence may start anywhere: that it fits says nothing about what was in between."""
    assert unbroken([_row(1, 5, 1, rows=3), _row(3, 5, 4)], 2)
    assert not unbroken([_row(1, 5, 1, rows=3), _row(3, 6, 4)], 2)
    assert not unbroken([_row(1, 5, 1, rows=3), _row(3, 5, 5)], 2)
    assert not unbroken([_row(1, 5, 1)], 2) and not unbroken([_row(3, 5, 2)], 2)
