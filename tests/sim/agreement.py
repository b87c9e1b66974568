"""Replicas are one machine: each command does the same on all of them, and a snapshot restores what was taken.

Held at every apply, and not only at the end, where replicas may have come to differ and to agree again. And what a
command may do at all: tokens are taken once, an owner changes under a fresh one, a silent datanode's lease has run out.
"""

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from groundwork.core.ids import Lane
from metasrv.core.commands import Failover, decode
from metasrv.core.events import Outcome
from metasrv.core.machine import Machine
from metasrv.core.state import State

if TYPE_CHECKING:
    from tests.sim.world import World

WHOLE_EVERY = 4  # revisions from one comparison of the whole state to the next
RESTORED_EVERY = 8  # revisions from one restore of the shadow to the next
# Two clocks that are off by 1 %, one each way, over a lease.
DRIFT = 0.021
VALUE_IS_A_TOKEN = ("Register", "Failover", "Reopen", "AcceptLoss", "StartMigration", "DropTable")


class Agreement:
    """Of the replicas of one run."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._did: dict[int, bytes] = {}  # revision -> what its command did where it was applied first
        self._whole: dict[int, bytes] = {}  # some revisions -> the state behind them
        self._owners: dict[int, tuple[Lane, int]] = {}  # region -> lane and epoch, as last applied anywhere
        self._next_token = 0
        self._shadow = Machine()  # a replica that starts from a snapshot all the time
        self._restored = 0
        self._begins = False
        self.leases_held = 0  # how often a lease was looked at when its holder was failed over

    def watch(self, name: str, machine: Machine) -> None:
        """What this replica restores must be what it is given."""
        restore = machine.restore

        def checked(slices: Iterable[bytes]) -> None:
            given = list(slices)
            restore(given)
            if b"".join(machine.snapshot()) != b"".join(given):
                self._world.fail(
                    f"{name} restored another state at revision {machine.state.revision} than it was given"
                )

        machine.restore = checked  # type: ignore[method-assign]

    def begin_again(self) -> None:
        """All replicas begin again from a backup: another history follows, and the shadow joins it."""
        self._did, self._whole, self._owners, self._next_token, self._begins = {}, {}, {}, 0, True

    def applied(self, name: str, machine: Machine, outcome: Outcome, command: bytes) -> None:
        """Hold what a command did against what it did elsewhere."""
        state, revision = machine.state, outcome.revision
        did = _digest((outcome, state.next_token))
        if revision not in self._did:
            self._did[revision] = did
            self._shadowed(machine, outcome, command)
            self._first(outcome, state, command)
        elif self._did[revision] != did:
            self._world.fail(f"{name}: {outcome.kind} at revision {revision} did something else than elsewhere")
        if revision % WHOLE_EVERY == 0:
            whole = _digest(list(machine.snapshot()))
            if self._whole.setdefault(revision, whole) != whole:
                self._world.fail(f"{name} has another state behind revision {revision} than a replica before it")

    def _shadowed(self, machine: Machine, outcome: Outcome, command: bytes) -> None:
        """Replicas hardly ever start from a snapshot in so short a history: this one does, and must go along."""
        shadow, revision = self._shadow, outcome.revision
        if self._begins:
            self._begins, self._shadow, self._restored = False, Machine(), revision
            self._shadow.restore(list(machine.snapshot()))
            return
        if _digest((shadow.apply(revision, command), shadow.state.next_token)) != self._did[revision]:
            self._world.fail(f"{outcome.kind} at revision {revision} does something else behind a snapshot")
        if revision < self._restored + RESTORED_EVERY:
            return
        given = list(machine.snapshot())
        if list(shadow.snapshot()) != given:
            self._world.fail(f"a replica that started from a snapshot has another state at revision {revision}")
        self._shadow, self._restored = Machine(), revision
        self._shadow.restore(given)
        if list(self._shadow.snapshot()) != given:
            self._world.fail(f"a snapshot of revision {revision} restores another state")

    # ---------------------------------------------------------------- what a command may do

    def _first(self, outcome: Outcome, state: State, command: bytes) -> None:
        before, self._next_token = self._next_token, state.next_token
        if outcome.refused or outcome.duplicate:
            return
        if outcome.kind in VALUE_IS_A_TOKEN and not before <= outcome.value < state.next_token:
            self._world.fail(f"{outcome.kind} at {outcome.revision} took {outcome.value}, not a token of its own")
        for region_id in outcome.regions:
            region = state.regions.get(region_id)
            if region is None:
                continue
            lane, epoch = self._owners.get(region_id, (region.lane, 0))
            if region.lane != lane and region.epoch == epoch:
                self._world.fail(f"region {region_id:#x} went from {lane} to {region.lane} under the epoch it had")
            if region.epoch != epoch and not before <= region.epoch < state.next_token:
                self._world.fail(f"region {region_id:#x} got the epoch {region.epoch}, which was taken before {before}")
            self._owners[region_id] = (region.lane, region.epoch)
        if outcome.kind == "Failover" and not self._world.clocks_lie:
            self._leases(decode(command))

    def _leases(self, command: Any) -> None:
        """Lease reads are stale by at most the drift of two clocks where a datanode was only silent."""
        assert isinstance(command, Failover)
        silent = {end.node_id: end.incarnation for end in command.ended if end.cause == "silent"}
        for host in self._world.datanodes:
            lease = host.beats.lease if host.up and host.beats is not None else None
            if lease is None or lease.keeper.incarnation != silent.get(host.name):
                continue
            self.leases_held += 1
            left_ms = lease.left_ms()
            if left_ms > self._world.lease_s * 1000 * DRIFT:
                self._world.fail(f"{host.name} is failed over as silent, and its lease runs for {left_ms:.0f} ms more")


def _digest(what: Any) -> bytes:
    return hashlib.sha256(msgspec.msgpack.encode(what)).digest()[:12]
