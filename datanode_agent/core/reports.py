"""Reports that wait to be answered: coalesced, repeated until they are, bounded by what there is to report.

Per region and kind only the newest matters (a higher covered position, the latest failure), so the queue never holds
more than six reports a region however long metasrv is away.
"""

from protos.metasrv.v1 import nodes_pb2

_Key = tuple[int, str]


class ReportQueue:
    """First come, first sent; one batch in flight."""

    def __init__(self) -> None:
        self._waiting: dict[_Key, nodes_pb2.RegionReport] = {}
        self._flying: dict[_Key, nodes_pb2.RegionReport] = {}

    def __len__(self) -> int:
        return len(self._waiting) + len(self._flying)

    def add(self, report: nodes_pb2.RegionReport) -> None:
        """Queue one report, in the place of an older one of the same region and kind."""
        key = (report.region_id, report.WhichOneof("what") or "")
        older = self._waiting.pop(key, None)
        if older is not None and older.epoch > report.epoch:
            report = older
        self._waiting[key] = report

    def take(self, reports_max: int) -> list[nodes_pb2.RegionReport]:
        """The next batch, in flight from now on. Empty when nothing waits; only one batch flies at a time."""
        if not self._flying:
            keys = [key for key, _ in zip(self._waiting, range(reports_max), strict=False)]
            self._flying = {key: self._waiting.pop(key) for key in keys}
        return list(self._flying.values())

    def answered(self) -> None:
        """The batch in flight is committed, or refused for good."""
        self._flying = {}

    def unanswered(self) -> None:
        """The batch in flight must be sent again, ahead of what waits, except for what was replaced meanwhile."""
        waiting, self._waiting = self._waiting, {}
        kept = {key: report for key, report in self._flying.items() if key not in waiting}
        self._waiting = {**kept, **waiting}
        self._flying = {}

    def clear(self) -> None:
        """Forget everything: the incarnation that reported it is over."""
        self._waiting = {}
        self._flying = {}
