"""Which cluster metactl talks to: --metasrv and --cluster-id, METASRV_ADDR, or what `metactl dev up` wrote down."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec
from rich.console import Console

from groundwork.adapters.config import TlsConfig
from groundwork.adapters.rpc import check_transport
from groundwork.core.errors import BadInput
from metactl.asking import DEADLINE_S, Metasrv


class Context(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The context file: the cluster that commands without --metasrv talk to."""

    cluster_id: str
    metasrv: list[str]
    folder: str = ""


def context_path() -> Path:
    """Where the context file is: METACTL_CONTEXT, else in the user's configuration folder."""
    named = os.environ.get("METACTL_CONTEXT")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "metasrv" / "context.json"


def write_context(context: Context) -> Path:
    """Write the context file; its path."""
    path = context_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_bytes(msgspec.json.encode(context))
    temporary.replace(path)
    return path


def read_context() -> Context | None:
    """The context file, None where there is none. Raises BadInput when it is damaged."""
    path = context_path()
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Context)
    except (msgspec.DecodeError, OSError) as error:
        raise BadInput(
            str(path), f"not a context file ({error}): delete it, or name the cluster by --metasrv"
        ) from error


def called() -> str:
    """How this program is called from here, for hints that can be pasted: its name where it is on the PATH."""
    mine = Path(sys.executable).parent / "metactl"
    found = shutil.which("metactl")
    if found is not None and Path(found).resolve() == mine.resolve():
        return "metactl"
    return str(mine.relative_to(Path.cwd())) if mine.is_relative_to(Path.cwd()) else str(mine)


class Settings(msgspec.Struct, frozen=True):
    """The options before the command's name."""

    metasrv: str
    cluster_id: str
    output: str
    deadline_s: float
    tls: TlsConfig | None

    def addresses(self) -> tuple[list[str], str]:
        """Addresses of metasrv and the cluster id (empty where it is not known). Raises BadInput."""
        if self.metasrv:
            addresses = [a.strip() for a in self.metasrv.split(",") if a.strip()]
            context = read_context()
            known = context.cluster_id if context is not None and set(addresses) & set(context.metasrv) else ""
            cluster_id = self.cluster_id or known
        else:
            context = read_context()
            if context is None:
                raise BadInput("--metasrv", "no cluster named: give HOST:PORT[,HOST:PORT], set METASRV_ADDR, "
                               "or start one here by `metactl dev up`")  # fmt: skip
            addresses, cluster_id = context.metasrv, self.cluster_id or context.cluster_id
        for address in addresses:
            host, colon, port = address.rpartition(":")
            if not (host and colon and port.isdecimal() and 0 < int(port) < 65_536):
                raise BadInput("--metasrv", f"{address!r} is not HOST:PORT")
            check_transport(address, self.tls, "--metasrv")
        return addresses, cluster_id


def settings(click_context: click.Context) -> Settings:
    """The options before the command's name, of the running command."""
    found = click_context.find_object(Settings)
    if found is None:
        raise BadInput("metactl", "the command was started without its group")
    return found


@contextmanager
def connected(click_context: click.Context) -> Iterator[Metasrv]:
    """A connection to the cluster that the options name."""
    mine = settings(click_context)
    addresses, cluster_id = mine.addresses()
    client = Metasrv(addresses, cluster_id, mine.tls, mine.deadline_s or DEADLINE_S)
    try:
        yield client
    finally:
        client.close()


def console(stderr: bool = False) -> Console:
    """Where people read: colours where there is a terminal, full lines where there is none."""
    made = Console(stderr=stderr, highlight=False)
    if not made.is_terminal:
        made = Console(stderr=stderr, highlight=False, width=160)
    return made
