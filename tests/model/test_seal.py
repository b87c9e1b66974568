"""The rules of lanes in object storage, each proved needed, and together enough."""

import pytest

from tests.model.seal_model import Lane, SealModel, SealRules
from tests.model.search import report, search


def test_the_rules_together_hold_and_nothing_gets_stuck() -> None:
    """P2: no interleaving acknowledges at or above an end, loses an entry below one, or leaves a lane unsealed."""
    model = SealModel(SealRules(), seqs=4)
    found = search(Lane(), model.steps, model.good)
    print(*report("lanes in object storage", found), sep="\n")
    assert found.exhausted
    assert found.broken is None
    assert found.states > 10_000


@pytest.mark.parametrize(
    "rule",
    ["first_gap", "from_marker", "trim_marker", "marker_grows", "keep_marks", "own_readback", "look_back", "window"],
)
def test_each_rule_is_needed(rule: str) -> None:
    """Holes 1 and 2, second pass 4: without any one of the rules an interleaving that breaks a promise is found."""
    model = SealModel(SealRules()._replace(**{rule: False}))
    found = search(Lane(), model.steps, model.good)
    print(*report(f"without {rule}", found), sep="\n")
    assert found.broken is not None
    assert found.trace


def test_the_grant_is_not_what_fences_in_object_storage() -> None:
    """Put-if-absent fences by itself there: the grant keeps a late opener from working for nothing."""
    model = SealModel(SealRules(grant=False), seqs=4)
    assert search(Lane(), model.steps, model.good).broken is None
