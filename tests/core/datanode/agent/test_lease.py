"""The lease keeper, by stories: tests/core/datanode/agent/stories/lease.txt."""

from pathlib import Path

import pytest

from datanode_agent.core.lease import BEATS_REMEMBERED_MAX, GRANTS_PENDING_MAX, LeaseKeeper, Refusal

LEASE_MS = 3_000
STORIES = Path(__file__).parent / "stories" / "lease.txt"


def _stories() -> list[tuple[str, list[tuple[int, str]]]]:
    stories: list[tuple[str, list[tuple[int, str]]]] = []
    for number, line in enumerate(STORIES.read_text().splitlines(), 1):
        text = line.strip()
        if text.startswith("story "):
            stories.append((text.removeprefix("story "), []))
        elif text and not text.startswith("#"):
            stories[-1][1].append((number, text))
    return stories


def _lanes(text: str) -> frozenset[int]:
    return frozenset() if text == "-" else frozenset(int(lane) for lane in text.split(","))


def _check(keeper: LeaseKeeper, now_ms: float, what: str) -> object:
    word, _, rest = what.partition(" ")
    match word:
        case "valid" | "invalid":
            return ("valid" if keeper.valid(now_ms) else "invalid") == word or keeper.expires_ms
        case "left":
            return keeper.left_ms(now_ms) == float(rest) or keeper.left_ms(now_ms)
        case "admitted":
            return keeper.admitted == _lanes(rest) or keeper.admitted
        case "awaited":
            return keeper.awaited_revision == (None if rest == "-" else int(rest)) or keeper.awaited_revision
        case "standing":
            return keeper.standing.value == rest or keeper.standing
    raise AssertionError(f"unknown expectation {what!r}")


def _step(keeper: LeaseKeeper, now_ms: float, text: str) -> None:
    words = text.split()
    match words:
        case ["sent", beat]:
            keeper.sent(int(beat), now_ms, ())
        case ["sent", beat, "open", lanes]:
            keeper.sent(int(beat), now_ms, _lanes(lanes))
        case ["grant", beat, "for", lease_ms, "at", revision, "lanes", lanes]:
            keeper.granted(int(beat), int(lease_ms), int(revision), _lanes(lanes))
        case ["applied", revision]:
            keeper.applied(int(revision))
        case ["refused", why]:
            keeper.refused(Refusal(why), now_ms)
        case _:
            raise AssertionError(f"unknown step {text!r}")


@pytest.mark.parametrize(("name", "lines"), _stories(), ids=lambda x: x if isinstance(x, str) else "")
def test_story(name: str, lines: list[tuple[int, str]]) -> None:
    """Every story of the lease comes out as it is told (T8, P7)."""
    keeper = LeaseKeeper(5, 0.0, LEASE_MS)
    for number, line in lines:
        at, _, what = line.partition(" ")
        what = what.strip()
        if not what.startswith("=>"):
            _step(keeper, float(at), what)
            continue
        for expected in what.removeprefix("=>").replace(", ", ";").split(";"):
            met = _check(keeper, float(at), expected.strip())
            assert met is True, f"{STORIES.name}:{number}: {name}: want {expected.strip()!r}, have {met!r}"


def test_memory_is_bounded_however_long_nobody_answers() -> None:
    """Neither beats without answers nor grants without orders pile up."""
    keeper = LeaseKeeper(5, 0.0, LEASE_MS)
    for beat in range(2_000):
        keeper.sent(beat, beat * 500.0, (0,))
        keeper.granted(beat, LEASE_MS, beat + 10_000, (0,))
    assert len(keeper._beats) == BEATS_REMEMBERED_MAX
    assert len(keeper._pending) == GRANTS_PENDING_MAX
    keeper.applied(20_000)
    assert keeper.left_ms(1_999 * 500.0) == LEASE_MS
