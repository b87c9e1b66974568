"""Safety invariants that hold even under `python -O`."""


class InvariantViolated(Exception):
    """A defect in this program, never an operating error: the process that sees it must stop."""


def require(condition: bool, message: str) -> None:
    """Stop the process (by raising) when a safety invariant does not hold."""
    if not condition:
        raise InvariantViolated(message)
