"""Bootstrap, configuration, maintenance and notes."""

from groundwork.core.ids import first_token
from metasrv.core.commands import Bootstrap, Note, Pause, Resume, SetConfig
from metasrv.core.records import NodeStatus
from metasrv.core.records import Pause as PauseRecord
from metasrv.core.transaction import Refused, Transaction

SCOPES = ("site/", "node/", "table/")
PAUSES_MAX = 1_000
# More than were ever made between a backup and its restore: what they left in the store must not turn up in a table
# that is made later.
TABLES_BEHIND_A_BACKUP_MAX = 1 << 20


def bootstrap(tx: Transaction, cmd: Bootstrap) -> int:
    """Begin, or begin again from a backup under a higher generation (T20). The value is the generation."""
    state = tx.state
    if state.cluster_id and state.cluster_id != cmd.cluster_id:
        raise Refused(f"this is cluster {state.cluster_id}, not {cmd.cluster_id}")
    if cmd.generation <= state.generation:
        raise Refused(
            f"generation {state.generation} has begun already; a new one must be higher than {cmd.generation}"
        )
    if not cmd.cluster_id:
        raise Refused("the cluster id is empty")
    again = bool(state.cluster_id)
    state.cluster_id, state.generation = cmd.cluster_id, cmd.generation
    state.next_token = max(state.next_token, first_token(cmd.generation))
    if not again:
        state.config = cmd.config
        tx.event("bootstrap", f"cluster {cmd.cluster_id} began with generation {cmd.generation}")
        return cmd.generation
    state.next_table_id += TABLES_BEHIND_A_BACKUP_MAX
    # What ran after the backup was taken is unknown here: nothing of the older generation may go on by itself.
    for node in list(state.nodes.values()):
        tx.end_incarnation(node, NodeStatus.LOST, f"ended by generation {cmd.generation}, which began from a backup")
    tx.event(
        "bootstrap",
        f"generation {cmd.generation} began from a backup: all {len(state.nodes)} datanodes must register again",
    )
    return cmd.generation


def set_config(tx: Transaction, cmd: SetConfig) -> int:
    """Replace the configuration."""
    old, tx.state.config = tx.state.config, cmd.config
    changed = [f for f in cmd.config.__struct_fields__ if getattr(old, f) != getattr(cmd.config, f)]
    said = ", ".join(f"{f} from {getattr(old, f)} to {getattr(cmd.config, f)}" for f in changed)
    tx.event("config", f"{cmd.who or 'somebody'} changed {said or 'nothing'}")
    return 0


def check_scope(scope: str) -> None:
    """Refuse what is no scope."""
    if scope != "cluster" and not any(scope.startswith(s) and len(scope) > len(s) for s in SCOPES):
        raise Refused(f"{scope!r} is no scope: cluster, site/NAME, node/NAME or table/NAME")


def pause(tx: Transaction, cmd: Pause) -> int:
    """Begin maintenance. It always expires."""
    check_scope(cmd.scope)
    if cmd.expires_wall_ms <= cmd.wall_ms:
        raise Refused("a pause must expire in the future")
    if len(tx.state.pauses) >= PAUSES_MAX and cmd.scope not in tx.state.pauses:
        raise Refused(f"{PAUSES_MAX} pauses run already: end some, or pause the cluster")
    tx.state.pauses[cmd.scope] = PauseRecord(cmd.scope, cmd.reason, cmd.who, cmd.expires_wall_ms)
    seconds = (cmd.expires_wall_ms - cmd.wall_ms) / 1000
    why = cmd.reason or "no reason given"
    node = cmd.scope.removeprefix("node/")
    nodes = (node,) if node in tx.state.nodes else ()
    tx.event("pause", f"{cmd.who or 'somebody'} paused {cmd.scope} for {seconds:.0f} s: {why}", nodes)
    return 0


def resume(tx: Transaction, cmd: Resume) -> int:
    """End maintenance."""
    if cmd.scope in tx.expired:
        return 0
    if cmd.scope not in tx.state.pauses:
        raise Refused(f"{cmd.scope} is not paused")
    del tx.state.pauses[cmd.scope]
    tx.event("resume", f"{cmd.who or 'somebody'} ended the pause of {cmd.scope}")
    return 0


def note(tx: Transaction, cmd: Note) -> int:
    """Only the audit trail."""
    tx.event(cmd.kind, cmd.sentence, (cmd.node_id,) if cmd.node_id else ())
    return 0
