"""What the leader's logic hands to the service: a command to propose or an effect to carry out, and why."""

from msgspec import Struct

from metasrv.core.commands import AnyCommand


class Decision(Struct, frozen=True):
    """One decision, with one sentence that has figures (P6).

    Carry out in order, wait for each proposal to end, then let the supervisor step again (at once if any was applied).
    A refused proposal is fine: the next step sees why. `ask_replicas`: call Replicas.Heard on every other replica and
    give the answers to LeaseBook.reported(). `transfer_to`: hand leadership to that replica.
    """

    kind: str  # suspect, clear, failover, not_failed_over, breaker, transfer, unwell, migration, cancel, trim, ...
    sentence: str
    command: AnyCommand | None = None
    ask_replicas: bool = False
    transfer_to: str = ""
    fields: dict[str, str] = {}
