"""Writers that use nothing but the public interface: a public client of the public line protocol.

Each region has a sender of its own, so that a region that does not answer holds up no other and a region's time of
recovery is its own. A sender sends one batch at a time; a batch whose outcome is unknown is sent again as it was, to
another frontend where the one it used went away.
"""

import functools
import queue
import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import urllib3.exceptions
from influxdb_client.client.influxdb_client import InfluxDBClient
from influxdb_client.client.write_api import SYNCHRONOUS
from influxdb_client.rest import ApiException

from groundwork.adapters.clock import boottime_ms
from groundwork.core.errors import MetasrvError
from groundwork.core.table import TableInfo
from metactl.inputs import Paths, sample, to_line
from metactl.ledger import Ledger, RegionLedger, Row
from metactl.timeline import Ack

CLIENT_TIMEOUT_MS = 60_000  # above the frontend's own deadline: it is the frontend that gives up, and says so
CONNECTIONS_MAX = 256
RETRY_PAUSE_S = 0.05
BATCH_ROWS_MAX = 1_000
RECENT_ROWS_MAX = 64
BULK_AT_ONCE = 6
OVERWRITE_EVERY = 50  # of the bulk rows, one in so many is written again with a new value
BUCKET = "public"


class WorkloadFailed(MetasrvError):
    """The frontend refused a batch for good: the drill itself is broken."""


class Frontends:
    """The public client for each frontend address. Shared by all senders."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self.clients = [
            InfluxDBClient(url=f"http://{address}", token="none", org="none",  # noqa: S106 - there is no authentication
                           timeout=CLIENT_TIMEOUT_MS, connection_pool_maxsize=CONNECTIONS_MAX)
            for address in addresses
        ]  # fmt: skip
        self.writes = [client.write_api(write_options=SYNCHRONOUS) for client in self.clients]

    def close(self) -> None:
        """Close the connections."""
        for client in self.clients:
            client.close()  # type: ignore[no-untyped-call]


class Sender:
    """The one who writes to a region."""

    def __init__(self, ledger: RegionLedger, frontends: Frontends, prefer: int, load: "Workload", seed: int) -> None:
        self.ledger = ledger
        self.queue: queue.Queue[list[Row]] = queue.Queue(maxsize=2)
        self._frontends = frontends
        self._turn = prefer
        self._load = load
        self._random = random.Random(seed)  # noqa: S311 - which rows to overwrite is no secret
        self._recent: deque[Row] = deque(maxlen=RECENT_ROWS_MAX)

    def bulk(self, rows: Sequence[Row]) -> None:
        """Send many rows in batches, then some of them again with new values."""
        for start in range(0, len(rows), BATCH_ROWS_MAX):
            self.send(list(rows[start : start + BATCH_ROWS_MAX]))
        again = [row._replace(size=row.size + 1) for row in rows[::OVERWRITE_EVERY]]
        if again:
            self.send(again)

    def live(self) -> None:
        """Send what the samplers offer until the workload stops."""
        while not self._load.stopping.is_set():
            try:
                batch = self.queue.get(timeout=0.1)
            except queue.Empty:
                continue
            self.send(batch + self._overwrites())

    def _overwrites(self) -> list[Row]:
        """A new value for one row that was acknowledged not long ago."""
        if not self._recent:
            return []
        old = self._random.choice(self._recent)
        self._recent.remove(old)
        return [old._replace(size=old.size + 1)]

    def send(self, batch: list[Row]) -> None:
        """Attempt a batch until it is acknowledged, or until the workload stops (then its outcome is unknown)."""
        self.ledger.attempt(batch)
        body = "\n".join(to_line(self._load.table.name, row) for row in batch)
        while not self._load.stopped.is_set():
            sent_ms = boottime_ms()
            try:
                write = self._frontends.writes[self._turn % len(self._frontends.writes)]
                write.write(bucket=BUCKET, record=body)
            except ApiException as error:
                if error.status is not None and 400 <= error.status < 500 and error.status != 429:
                    self._load.fail(f"the frontend refused a batch: {error.status} {error.body}")
                    return
                self._load.retries += 1
                self._load.stopped.wait(RETRY_PAUSE_S)
            except (urllib3.exceptions.HTTPError, OSError):
                self._turn += 1
                self._load.retries += 1
                self._load.stopped.wait(RETRY_PAUSE_S)
            else:
                if self._load.stopped.is_set():
                    return  # the books are closed: what comes now counts as unknown
                self.ledger.acknowledge(batch)
                self._load.acks.append(Ack(sent_ms, boottime_ms(), self.ledger.region_id, len(batch)))
                self._recent.extend(batch[:2])
                return


class Workload:
    """All writers of one table, with the ledger of what they did."""

    def __init__(self, table: TableInfo, frontend_addresses: Sequence[str], writers: int, seed: int) -> None:
        self.table = table
        self.ledger = Ledger(table.region_ids)
        self.acks: list[Ack] = []
        self.retries = 0
        self.failure: str | None = None
        self.stopping = threading.Event()
        self.stopped = threading.Event()
        self._frontends = Frontends(frontend_addresses)
        self._writers = min(writers, len(table.region_ids))
        self._senders = {
            region_id: Sender(
                self.ledger.regions[region_id], self._frontends, index % self._writers, self, seed + index
            )
            for index, region_id in enumerate(table.region_ids)
        }
        self._threads: list[threading.Thread] = []

    def fail(self, message: str) -> None:
        """Stop everything: a writer met what must not happen."""
        self.failure = self.failure or message
        self.stopping.set()
        self.stopped.set()

    def check(self) -> None:
        """Raise WorkloadFailed when a writer has failed."""
        if self.failure:
            raise WorkloadFailed(self.failure)

    def sender(self, region_id: int) -> Sender:
        """The one sender of a region, for a caller who drives it by himself."""
        return self._senders[region_id]

    def bulk_load(self, rows: Sequence[Row]) -> None:
        """Write many rows, a region's rows by its own sender, and wait until all are acknowledged."""
        by_region: dict[int, list[Row]] = {region_id: [] for region_id in self.table.region_ids}
        for row in rows:
            by_region[self.table.region_of({"path": row.path, "suffix": row.suffix})].append(row)
        with ThreadPoolExecutor(BULK_AT_ONCE, thread_name_prefix="bulk") as pool:
            for done in [pool.submit(self._senders[region_id].bulk, mine) for region_id, mine in by_region.items()]:
                done.result()
        self.check()

    def start_live(self, interval_s: float) -> None:
        """Begin to sample and send, each writer the regions that are its own."""
        for region_id, sender in self._senders.items():
            self._run(sender.live, f"send-{region_id:x}")
        for number in range(self._writers):
            regions = list(self.table.region_ids[number :: self._writers])
            self._run(functools.partial(self._sample, number, regions, interval_s), f"sample-{number}")

    def _run(self, work: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=work, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _sample(self, number: int, region_ids: list[int], interval_s: float) -> None:
        paths = Paths(f"w{number}", self.table.region_of)
        self.stopping.wait(interval_s * number / self._writers)
        while not self.stopping.is_set():
            began_ms = boottime_ms()
            for region_id, rows in sample(paths, region_ids).items():
                if not self._senders[region_id].queue.full():  # a region that does not answer is not sampled
                    self._senders[region_id].queue.put(rows)
                self.stopping.wait(interval_s / 2 / len(region_ids))
            self.stopping.wait(max(0.0, interval_s - (boottime_ms() - began_ms) / 1000))

    def stop(self, grace_s: float = 5.0) -> None:
        """Let every sender finish its batch; one that cannot within the grace leaves it with an unknown outcome."""
        self.stopping.set()
        give_up_ms = boottime_ms() + grace_s * 1000
        for thread in self._threads:
            thread.join(max(0.0, (give_up_ms - boottime_ms()) / 1000))
        self.stopped.set()
        for thread in self._threads:
            thread.join(1.0)
        self._frontends.close()
