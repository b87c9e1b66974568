"""What agents report, coalesced. Any of it may come late, twice, and from a process that was superseded long ago.

So each report is held against the state by its own token: the epoch, the attempt, or (coverage) the claim epoch of the
very stay that it speaks of.
"""

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from groundwork.core.ids import region_text, table_of, token_text
from metasrv.core.commands import Closed, Covered, Prepared, RegionFailed, Reports, Serving, Stopped
from metasrv.core.events import regions_said
from metasrv.core.records import Failure, Phase, Region, Stay, StayEnd
from metasrv.core.transaction import Transaction

MESSAGE_CHARS_MAX = 500


class _Batch:
    """What one Reports command did, for one event per kind instead of one per region."""

    def __init__(self) -> None:
        self.serving: list[Serving] = []
        self.moved: list[tuple[int, str, str, int]] = []
        self.stopping: list[int] = []


def reports(tx: Transaction, cmd: Reports) -> int:
    """Judge each alone. The value is how many counted."""
    batch = _Batch()
    for at, item in enumerate(cmd.items):
        reason = _HANDLERS[type(item)](tx, batch, item)
        if reason:
            tx.reject(at, reason)
    _tell(tx, batch)
    return len(cmd.items) - len(tx.rejected)


def _tell(tx: Transaction, batch: _Batch) -> None:
    for node_id in sorted({s.node_id for s in batch.serving}):
        mine = [s for s in batch.serving if s.node_id == node_id]
        slowest = max(mine, key=lambda s: s.seal_ms + s.claim_ms + s.replay_ms)
        said = (
            f"{regions_said(len(mine))} serving on {node_id}; the slowest took {slowest.seal_ms:,} ms to seal, "
            f"{slowest.claim_ms:,} ms to claim, {slowest.replay_ms:,} ms to replay {slowest.replayed_entries:,} entries"
        )
        regions = [s.region_id for s in mine]
        tx.event(
            "serving", said, (node_id,), regions, token=max(s.epoch for s in mine), count=len(mine),
            replayed_entries=sum(s.replayed_entries for s in mine),
            seal_ms=slowest.seal_ms, claim_ms=slowest.claim_ms, replay_ms=slowest.replay_ms,
        )  # fmt: skip
    for source, target, attempt in sorted({(source, target, attempt) for _, source, target, attempt in batch.moved}):
        regions = [region_id for region_id, *move in batch.moved if move == [source, target, attempt]]
        under = token_text(tx.epoch())
        said = f"{regions_said(len(regions))} handed over from {source} to {target} under epoch {under}"
        tx.event("handover", said, (source, target), regions, attempt=attempt)


def _owner(tx: Transaction, item: Serving | Stopped | RegionFailed | Closed) -> Region | str:
    region = tx.state.regions.get(item.region_id)
    if region is None:
        return f"region {region_text(item.region_id)} does not exist"
    if (region.lane.node_id, region.lane.incarnation) != (item.node_id, item.incarnation):
        owner, other = region.lane.node_id, f"incarnation {token_text(item.incarnation)} of {item.node_id}"
        return f"{owner} owns region {region_text(item.region_id)}, not {other}"
    if tx.state.is_over(region.lane):
        return f"lane {region.lane} is over"
    if region.epoch != item.epoch:
        return (
            f"region {region_text(item.region_id)} is at epoch {token_text(region.epoch)}, not {token_text(item.epoch)}"
        )
    return region


def _serving(tx: Transaction, batch: _Batch, item: Serving) -> str:
    region = _owner(tx, item)
    if isinstance(region, str):
        return region
    if region.phase is Phase.OPENING:
        tx.state.failures.pop(item.region_id, None)
        tx.set_region(item.region_id, replace(region, phase=Phase.SERVING))
        batch.serving.append(item)
    elif region.phase is not Phase.SERVING:
        return f"region {region_text(item.region_id)} is {region.phase.name.lower()}"
    return ""


def _prepared(tx: Transaction, batch: _Batch, item: Prepared) -> str:
    migration = tx.state.migrations.get(item.region_id)
    if migration is None or migration.attempt != item.attempt:
        return f"attempt {token_text(item.attempt)} to move region {region_text(item.region_id)} has ended"
    if (migration.target.node_id, migration.target.incarnation) != (item.node_id, item.incarnation):
        return f"{item.node_id} is not the target of attempt {token_text(item.attempt)}"
    if not migration.stopping:
        region = tx.state.regions[item.region_id]
        if region.phase is not Phase.SERVING:
            return f"region {region_text(item.region_id)} is {region.phase.name.lower()}"
        tx.set_migration(item.region_id, replace(migration, stopping=True))
        tx.set_region(item.region_id, replace(region, phase=Phase.STOPPING))
        batch.stopping.append(item.region_id)
    return ""


def _stopped(tx: Transaction, batch: _Batch, item: Stopped) -> str:
    migration = tx.state.migrations.get(item.region_id)
    if migration is None or migration.attempt != item.attempt:
        return f"attempt {token_text(item.attempt)} to move region {region_text(item.region_id)} has ended"
    region = _owner(tx, item)
    if isinstance(region, str):
        return region
    if not migration.stopping or region.phase is not Phase.STOPPING:
        return f"region {region_text(item.region_id)} was not told to stop"
    if item.lane != region.lane or item.stay_epoch != region.stay_epoch:
        return (
            f"region {region_text(item.region_id)} is in stay {region.stay_epoch} of lane {region.lane}, "
            f"not {item.stay_epoch} of {item.lane}"
        )
    # An ended target lane ends the migration with it, so the target can take the region.
    end = StayEnd(region.lane, region.stay_epoch, item.position)
    tx.end_migration(item.region_id, resume=False)
    tx.assign(item.region_id, migration.target, (end,))
    batch.moved.append((item.region_id, region.lane.node_id, migration.target.node_id, migration.attempt))
    return ""


def _covered(tx: Transaction, batch: _Batch, item: Covered) -> str:
    region = tx.state.regions.get(item.region_id)
    if region is None:
        return f"region {region_text(item.region_id)} does not exist"
    if item.manifest_epoch > region.epoch:
        epoch, now = token_text(item.manifest_epoch), token_text(region.epoch)
        return f"no manifest of region {region_text(item.region_id)} can have epoch {epoch}: it is at {now}"
    named = {(s.lane, s.stay_epoch): s for s in item.stays}
    kept: list[Stay] = []
    for stay in region.stays:
        said = named.get((stay.lane, stay.epoch))
        current = (stay.lane, stay.epoch) == (region.lane, region.stay_epoch)
        if said and (not said.done or current):
            if said.covered > stay.covered:
                tx.cover_lane(stay.lane, said.covered)
                stay = Stay(stay.lane, stay.epoch, said.covered)
            kept.append(stay)
        elif said:
            tx.cover_lane(stay.lane, max(said.covered, stay.covered))
        elif stay.epoch > item.manifest_epoch or current:
            kept.append(stay)
        else:
            tx.cover_lane(stay.lane, stay.covered)
    if tuple(kept) != region.stays:
        tx.set_region(item.region_id, replace(region, stays=tuple(kept)))
    return ""


def _failed(tx: Transaction, batch: _Batch, item: RegionFailed) -> str:
    migration = tx.state.migrations.get(item.region_id)
    if migration and (migration.target.node_id, migration.target.incarnation) == (item.node_id, item.incarnation):
        epoch = tx.state.regions[item.region_id].epoch
        if item.epoch != epoch:
            return f"it failed under epoch {item.epoch}; region {region_text(item.region_id)} is at {epoch}"
        source = migration.source.node_id
        tx.end_migration(item.region_id)
        region_name = region_text(item.region_id)
        said = f"the move of region {region_name} was cancelled: {item.node_id} could not take it ({item.kind})"
        tx.event("cancel", said, (item.node_id, source), (item.region_id,), attempt=migration.attempt)
        return ""
    region = _owner(tx, item)
    if isinstance(region, str):
        return region
    state = tx.state
    if region.phase is Phase.DROPPING and item.closed_position is None and not item.lane:
        pass  # it is told again with the next snapshot of its orders
    elif item.read_only:
        _moves_no_more(tx, item, region)
    else:
        if item.region_id in state.migrations:
            tx.end_migration(item.region_id, resume=False)
        stays, ends = region.stays, region.ends
        closed = _closed_at(region, item)
        if closed and closed not in ends:
            ends = (*ends, closed)
        if (
            item.lane
            and state.is_over(item.lane)
            and all((s.lane, s.epoch) != (item.lane, item.stay_epoch) for s in stays)
        ):
            stays = (Stay(item.lane, item.stay_epoch), *stays)  # unknown here, as after a start from backup
        phase = region.phase if region.phase is Phase.DROPPING else Phase.OPENING
        tx.set_region(item.region_id, replace(region, phase=phase, stays=stays, ends=ends))
    before = state.failures.get(item.region_id)
    times = before.times + 1 if before and before.epoch != item.epoch else before.times if before else 1
    message = item.message[:MESSAGE_CHARS_MAX]
    fresh = before is None or (before.epoch, before.kind) != (item.epoch, item.kind)
    state.failures[item.region_id] = Failure(
        item.epoch, item.kind, message, item.read_only, tx.wall_ms, times, before is not None and before.accepted
    )
    if fresh:
        how = "serves reads only" if item.read_only else "does not serve"
        said = f"region {region_text(item.region_id)} {how} on {item.node_id}: {item.kind}, {message or 'no message'}"
        tx.event("region_failed", said, (item.node_id,), (item.region_id,), token=item.epoch, failure=item.kind)
    return ""


def _moves_no_more(tx: Transaction, item: RegionFailed, region: Region) -> None:
    """What reads only is not moved. It takes no STOP under this epoch any more, so it goes on under the one it has."""
    migration = tx.state.migrations.get(item.region_id)
    if migration is None:
        return
    tx.end_migration(item.region_id, resume=False)
    if region.phase is Phase.STOPPING:
        tx.set_region(item.region_id, replace(region, phase=Phase.SERVING))
    nodes = (region.lane.node_id, migration.target.node_id)
    said = f"the move of region {region_text(item.region_id)} was cancelled: it serves reads only ({item.kind})"
    tx.event("cancel", said, nodes, (item.region_id,), attempt=migration.attempt)


def _closed_at(region: Region, item: RegionFailed) -> StayEnd | None:
    """Where its owner left its stay, if it says so of the very stay that it has."""
    if item.closed_position is None or (item.lane or region.lane) != region.lane:
        return None
    if item.lane and item.stay_epoch != region.stay_epoch:
        return None
    return StayEnd(region.lane, region.stay_epoch, item.closed_position)


def _closed(tx: Transaction, batch: _Batch, item: Closed) -> str:
    region = _owner(tx, item)
    if isinstance(region, str):
        return region
    if region.phase is not Phase.DROPPING:
        return f"region {region_text(item.region_id)} is not being dropped"
    for stay in region.stays:
        tx.cover_lane(stay.lane, stay.covered)
    tx.set_region(item.region_id, None)
    table = tx.state.tables[table_of(item.region_id)]
    if table.remaining > 1:
        tx.set_table(replace(table, remaining=table.remaining - 1))
        return ""
    tx.set_table(None, table.table_id)
    said = f"table {table.name} is gone and its name is free"
    tx.event("dropped", said, table_id=table.table_id, attempt=table.dropping)
    return ""


_HANDLERS: dict[type, Callable[[Transaction, _Batch, Any], str]] = {
    Serving: _serving,
    Prepared: _prepared,
    Stopped: _stopped,
    Covered: _covered,
    RegionFailed: _failed,
    Closed: _closed,
}
