"""What the agent did, on its way to metasrv: in batches, each repeated until it is answered.

While a region is handed over, writes of it are refused from the moment its owner stops until that report is committed.
So the reports of stopped owners wait for nothing: they have couriers of their own beside the one of all other reports.
No order between reports matters: each is judged by its own token, and may come late or twice.
"""

import asyncio

import structlog

from datanode_agent.adapters.metasrv_link import MetasrvLink
from datanode_agent.core.reports import ReportQueue
from groundwork.core.errors import BadInput, ForeignCluster, Refused
from protos.metasrv.v1 import nodes_pb2

log = structlog.get_logger()

REPORTS_A_BATCH_MAX = 1_000
STOPPED_CALLS_MAX = 8  # what stops while so many are on their way goes with the next one of them
REFUSED_LOGGED_MAX = 10  # of one batch


class Reporter:
    """Delivers the reports of one incarnation."""

    def __init__(self, link: MetasrvLink, incarnation: int) -> None:
        self._ordinary = _Courier(link, incarnation)
        self._stopped = [_Courier(link, incarnation) for _ in range(STOPPED_CALLS_MAX)]
        self._couriers = [self._ordinary, *self._stopped]

    def __len__(self) -> int:
        """How many reports wait for an answer."""
        return sum(len(courier.queue) for courier in self._couriers)

    def add(self, report: nodes_pb2.RegionReport) -> None:
        """Queue one report."""
        stopped = report.WhichOneof("what") == "stopped"
        (min(self._stopped, key=_Courier.burden) if stopped else self._ordinary).add(report)

    async def run(self) -> None:
        """Deliver, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for courier in self._couriers:
                group.create_task(courier.run(), name="reports")

    async def drained(self) -> None:
        """Wait until nothing waits for an answer."""
        while len(self):
            for courier in self._couriers:
                await courier.empty.wait()

    def send_again(self) -> None:
        """Another replica leads: do not wait for what the one that was asked may never answer."""
        for courier in self._couriers:
            courier.send_again()


class _Courier:
    """One queue, and one batch of it in flight."""

    def __init__(self, link: MetasrvLink, incarnation: int) -> None:
        self.queue = ReportQueue()
        self.empty = asyncio.Event()
        self.empty.set()
        self._link = link
        self._incarnation = incarnation
        self._added = asyncio.Event()
        self._call: asyncio.Future[nodes_pb2.ReportReply] | None = None
        self._again = False

    def burden(self) -> tuple[bool, int]:
        """Least where what is added now leaves at once: before all, with others that do."""
        waiting = len(self.queue)
        return (True, waiting) if self._call is not None else (False, -waiting)

    def add(self, report: nodes_pb2.RegionReport) -> None:
        """Queue one report."""
        self.queue.add(report)
        self.empty.clear()
        self._added.set()

    async def run(self) -> None:
        """Deliver, until cancelled."""
        while True:
            await self._added.wait()
            await asyncio.sleep(0)  # those of this turn; what comes while a batch is under way makes the next
            self._added.clear()
            while batch := self.queue.take(REPORTS_A_BATCH_MAX):
                await self._deliver(batch)
            if not len(self.queue):
                self.empty.set()

    def send_again(self) -> None:
        """See Reporter."""
        if self._call is not None:
            self._again = True
            self._call.cancel()

    async def _deliver(self, batch: list[nodes_pb2.RegionReport]) -> None:
        self._again = False
        self._call = asyncio.ensure_future(self._link.report(self._incarnation, batch))
        try:
            reply = await self._call
        except asyncio.CancelledError:
            self._call.cancel()
            task = asyncio.current_task()
            if not self._again or (task is not None and task.cancelling()):
                raise
            self.queue.unanswered()
        except (BadInput, Refused, ForeignCluster) as error:
            log.warning("reports_refused", reports=len(batch), why=str(error))
            self.queue.answered()
        else:
            _log_refused(batch, reply)
            self.queue.answered()
        finally:
            self._call = None


def _log_refused(batch: list[nodes_pb2.RegionReport], reply: nodes_pb2.ReportReply) -> None:
    """An older metasrv does not know such reports: they are answered for good, and not sent again."""
    for answer in [a for a in reply.refused if a.index < len(batch)][:REFUSED_LOGGED_MAX]:
        report = batch[answer.index]
        log.warning(
            "report_refused", region_id=report.region_id, what=report.WhichOneof("what"), kind=answer.kind,
            why=answer.message, refused=len(reply.refused),
        )  # fmt: skip
