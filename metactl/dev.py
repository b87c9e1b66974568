"""`metactl dev`: the demo's cluster without the drama. One supervisor process holds it; when that ends, all ends.

The folder keeps cluster.json (ports, cluster id, the supervisor), so that a later `up` finds its data again.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import psutil
from rich.console import Console

from groundwork.core.errors import BadInput
from metactl.cluster import Cluster, ClusterFailed, is_ready
from metactl.context import Context, called, write_context
from metactl.layout import Layout, Timing, plan_layout, ports_needed
from metactl.ports import PortHolder

STATE_FILE = "cluster.json"
UP_DEADLINE_S = 90.0
DOWN_DEADLINE_S = 20.0
POLL_S = 0.1
FORMAT_VERSION = 1


class State(msgspec.Struct, frozen=True):
    """What cluster.json says. `supervisor_pid` is 0 when it was ended in order."""

    version: int
    cluster_id: str
    ports: list[int]
    timing: Timing
    supervisor_pid: int = 0
    supervisor_since: float = 0.0
    ready: bool = False

    @property
    def runs(self) -> bool:
        """Whether that very supervisor process is alive (a pid may have been given to another since)."""
        try:
            return (
                self.supervisor_pid > 0 and psutil.Process(self.supervisor_pid).create_time() == self.supervisor_since
            )
        except psutil.Error:
            return False


def read_state(folder: Path) -> State | None:
    """What cluster.json says, None where there is none. Raises BadInput when it cannot be read."""
    path = folder / STATE_FILE
    if not path.exists():
        return None
    try:
        state = msgspec.json.decode(path.read_bytes(), type=State)
    except (msgspec.DecodeError, OSError) as error:
        raise BadInput(str(path), f"not the state of a local cluster ({error}): delete {folder}") from error
    if state.version > FORMAT_VERSION:
        raise BadInput(str(path), f"format version {state.version} is newer than this program's, {FORMAT_VERSION}")
    return state


def _write_state(folder: Path, state: State) -> None:
    temporary = folder / f"{STATE_FILE}.new"
    temporary.write_bytes(msgspec.json.encode(state))
    temporary.replace(folder / STATE_FILE)


def _layout(folder: Path, timing: Timing, ports: PortHolder) -> tuple[Layout, list[int]]:
    """The layout of before where its ports are free, else a new one for the same cluster. Raises BadInput."""
    before = read_state(folder)
    if before is None:
        taken = ports.take(ports_needed())
        return plan_layout(folder, taken, timing), taken
    if before.runs:
        raise BadInput("--dir", f"a cluster runs in {folder} already: metactl dev status, metactl dev down")
    taken = before.ports if ports.hold(before.ports) else ports.take(ports_needed())
    return plan_layout(folder, taken, timing, cluster_id=before.cluster_id), taken


def run(folder: Path, timing: Timing, console: Console, also_ends_with: psutil.Process | None = None) -> None:
    """Start the cluster and hold it until Ctrl-C or SIGTERM, or until the process given ends."""
    folder.mkdir(parents=True, exist_ok=True)
    ports = PortHolder()
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    try:
        layout, taken = _layout(folder, timing, ports)
        since = psutil.Process().create_time()
        state = State(FORMAT_VERSION, layout.cluster_id, taken, timing, os.getpid(), since)
        with Cluster(layout) as cluster:
            _write_state(folder, state)
            console.print(f"starting 3 metasrv, 4 datanodes, 2 frontends in {folder}", markup=False)
            cluster.start()
            cluster.wait_ready(deadline_s=UP_DEADLINE_S)
            path = write_context(Context(layout.cluster_id, layout.metasrv_addresses, str(folder.resolve())))
            console.print(f"ready; metactl talks to it from now on ({path})", markup=False)
            tell(layout, console)
            # Last: whoever detached it passes on what was printed until now, and uses the context.
            _write_state(folder, msgspec.structs.replace(state, ready=True))
            try:
                hold(cluster, ended, console, also_ends_with)
            except KeyboardInterrupt:
                console.print(f"ended; the data stays in {folder}", markup=False)
        _write_state(folder, msgspec.structs.replace(state, supervisor_pid=0))
    finally:
        ports.close()


def hold(cluster: Cluster, ended: threading.Event, console: Console, also_ends_with: psutil.Process | None) -> None:
    """Until it is told to end, or until that process has ended; says which processes of the cluster ended meanwhile."""
    gone: set[str] = set()
    while not ended.wait(POLL_S) and (also_ends_with is None or _lives(also_ends_with)):
        for member in cluster.layout.members:
            if member.name not in gone and not cluster.running(member.name):
                gone.add(member.name)
                console.print(f"{member.name} ended: {cluster.tail(member.name)}", style="red", markup=False)


def tell(layout: Layout, console: Console) -> None:
    """How to talk to the cluster."""
    me = called()
    frontend = layout.of("frontend")[0].http
    lines = [
        "",
        f"write:  curl -i -XPOST 'http://{frontend}/v1/influxdb/write?db=public' "
        "--data-binary 'weather,city=Oslo temperature=3.5'",
        f"read:   curl -XPOST 'http://{frontend}/v1/sql' --data-urlencode 'sql=SELECT * FROM weather'",  # noqa: S608 - a hint
        f"look:   {me} status; {me} routes weather; {me} events --follow",
        f"change: {me} migrate 1.0 --to dn-3 --dry-run; {me} drain dn-1 --dry-run",
        f"lose:   kill -9 $(cat {shown_path(layout.folder)}/dn-1.pid); {me} status --watch; {me} explain dn-1",
        f"end:    {me} dev down",
        f"elsewhere: METASRV_ADDR={','.join(layout.metasrv_addresses)} {me} status",
        "",
    ]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def shown_path(folder: Path) -> str:
    """A path as one would type it here."""
    return str(folder.relative_to(Path.cwd())) if folder.is_relative_to(Path.cwd()) else str(folder)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def process_of(pid: int) -> psutil.Process:
    """That very process: a pid may be given to another later. Raises BadInput when there is none."""
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess as error:
        raise BadInput("--pid", f"no process {pid}") from error


def detach(folder: Path, lease_ms: int, console: Console, pid: int | None = None) -> None:
    """Run `dev up` as a process of its own, and return when its cluster is ready."""
    folder.mkdir(parents=True, exist_ok=True)
    before = read_state(folder)
    if before is not None and before.runs:
        raise BadInput("--dir", f"a cluster runs in {folder} already: metactl dev status, metactl dev down")
    command = [sys.executable, "-m", "metactl.main", "dev", "up", "--dir", str(folder), "--lease-ms", str(lease_ms)]
    command += ["--pid", str(pid)] if pid is not None else []
    log_path = folder / "up.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )  # fmt: skip
    give_up = time.monotonic() + UP_DEADLINE_S
    while time.monotonic() < give_up:
        state = read_state(folder)
        if state is not None and state.ready and state.supervisor_pid == process.pid:
            console.print(log_path.read_text(), markup=False, highlight=False, soft_wrap=True)
            return
        if process.poll() is not None:
            break
        time.sleep(POLL_S)
    process.terminate()
    raise ClusterFailed(f"it did not come up: {log_path.read_text()[-1000:]}")


def status(folder: Path, console: Console) -> None:
    """Say what runs. Raises BadInput where no cluster was ever started there."""
    state = read_state(folder)
    if state is None:
        raise BadInput("--dir", f"no cluster in {folder}: metactl dev up --dir {folder}")
    if not state.runs:
        console.print(f"the cluster in {folder} does not run; its data is there: metactl dev up --dir {folder}")
        return
    layout = plan_layout(folder, state.ports, state.timing, cluster_id=state.cluster_id)
    for member in layout.members:
        word = "[green]ready[/green]" if is_ready(member.http) else "[red]not ready[/red]"
        console.print(f"{member.name:<10} site-{member.site}  http://{member.http}  {word}")
    tell(layout, console)


def down(folder: Path, wipe: bool, console: Console) -> None:
    """End the supervisor, and with it everything. A cluster that does not run is no error."""
    state = read_state(folder)
    if state is not None and state.runs:
        process = psutil.Process(state.supervisor_pid)
        process.terminate()
        try:
            process.wait(DOWN_DEADLINE_S)
        except psutil.TimeoutExpired:
            process.kill()
    if wipe and state is not None:
        shutil.rmtree(folder)
    console.print("down" + (" and wiped" if wipe else f"; the data stays in {folder}"), markup=False)
