"""What the world of three replicas drives: the hardened replica and the stock library, each in a thin dress."""

from collections.abc import Callable
from typing import Any, Protocol


class Node(Protocol):
    """What the world drives. Hardened: metasrv.adapters.raft.replica.Replica, in a thin dress."""

    def link(self, peer: str) -> None:
        """A stream to `peer` is up."""
        ...

    def unlink(self, peer: str) -> None:
        """It broke."""
        ...

    def deliver(self, peer: str, parcel: Any) -> None:
        """A parcel from `peer` arrives."""
        ...

    def abandon(self) -> None:
        """The process is gone."""
        ...

    def turn(self) -> None:
        """Let it work."""
        ...

    def propose(self, command: bytes, acked: Callable[[int], None]) -> None:
        """Propose a command; `acked` gets its index."""
        ...

    def hand_over(self, to: str) -> bool:
        """Ask `to` to take over the leadership; False where it cannot."""
        ...

    def confirm(self, answer: Callable[[bool], None]) -> None:
        """Ask for a round."""
        ...

    def leads(self) -> bool:
        """Whether it says that it leads."""
        ...

    def term(self) -> int:
        """Its term."""
        ...

    def applied(self) -> int:
        """The last index it applied."""
        ...

    def settled(self) -> bool:
        """Whether its disk may be lost without a second fault."""
        ...
