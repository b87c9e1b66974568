"""The rules of lanes in Kafka, each proved needed, and together enough."""

import pytest

from tests.model.kafka_model import KafkaModel, KafkaRules, Topic
from tests.model.search import report, search

SMALL = Topic(writes=1)
# Where a rule's absence shows as being stuck, all states must be searched: fewer of them.
TINY = Topic(writes=1, trims=0)
STARTS = {"reopen": TINY, "seal_looks": TINY._replace(timeouts=0)}


def test_the_rules_together_hold_and_nothing_gets_stuck() -> None:
    """P1, P2 with a late opener, a time-out of the rightful writer, two sealers and a trim of the shared topic."""
    model = KafkaModel(KafkaRules())
    found = search(SMALL, model.steps, model.good)
    print(*report("lanes in Kafka", found), sep="\n")
    assert found.exhausted
    assert found.broken is None
    assert found.states > 10_000


@pytest.mark.parametrize("rule", ["grant", "regrant", "reopen", "seal_looks", "over_first", "topic_trim"])
def test_each_rule_is_needed(rule: str) -> None:
    """Holes 3 and 15, second pass 1 to 3: without any one of the rules a promise breaks."""
    model = KafkaModel(KafkaRules()._replace(**{rule: False}))
    found = search(STARTS.get(rule, Topic()), model.steps, model.good)
    print(*report(f"without {rule}", found), sep="\n")
    assert found.broken is not None


def test_reading_back_does_not_replace_the_grant() -> None:
    """Second pass 1: a trimmed SEAL lets the late opener in; nothing but the grant keeps it out."""
    model = KafkaModel(KafkaRules(grant=False, read_back=True))
    found = search(Topic(timeouts=0), model.steps)
    print(*report("reading back in place of the grant", found), sep="\n")
    assert found.broken is not None
