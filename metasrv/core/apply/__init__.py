"""The handlers: one function per command, by subject."""

from collections.abc import Callable
from typing import Any

from metasrv.core.apply import cluster, migrations, nodes, ownership, reports, tables
from metasrv.core.commands import (
    AcceptLoss,
    Bootstrap,
    CancelMigration,
    Clear,
    CreateTable,
    Drain,
    DropTable,
    Failover,
    Forget,
    Note,
    Pause,
    Register,
    Release,
    Reopen,
    Reports,
    Resume,
    SetConfig,
    StartMigration,
    Suspect,
    Trim,
    Undrain,
    WidenTable,
)
from metasrv.core.transaction import Transaction

# The command's own type is the key, so each handler meets only its own kind.
HANDLERS: dict[type, Callable[[Transaction, Any], int]] = {
    Bootstrap: cluster.bootstrap,
    SetConfig: cluster.set_config,
    Pause: cluster.pause,
    Resume: cluster.resume,
    Note: cluster.note,
    Register: nodes.register,
    Release: nodes.release,
    Suspect: nodes.suspect,
    Clear: nodes.clear,
    Forget: nodes.forget,
    Drain: nodes.drain,
    Undrain: nodes.undrain,
    CreateTable: tables.create,
    WidenTable: tables.widen,
    DropTable: tables.drop,
    Failover: ownership.failover,
    Reopen: ownership.reopen,
    AcceptLoss: ownership.accept_loss,
    Trim: ownership.trim,
    StartMigration: migrations.start,
    CancelMigration: migrations.cancel,
    Reports: reports.reports,
}
