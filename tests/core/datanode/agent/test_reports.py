"""Reports: coalesced, repeated until answered, bounded."""

from datanode_agent.core.reports import ReportQueue
from protos.metasrv.v1 import nodes_pb2

Report = nodes_pb2.RegionReport


def _covered(region_id: int, version: int, epoch: int = 1) -> nodes_pb2.RegionReport:
    return Report(region_id=region_id, epoch=epoch, covered=Report.Covered(manifest_version=version))


def _serving(region_id: int) -> nodes_pb2.RegionReport:
    return Report(region_id=region_id, epoch=1, serving=Report.Serving())


def test_only_the_newest_of_a_region_and_kind_waits() -> None:
    """However long metasrv is away, the queue holds no more than there is to say."""
    queue = ReportQueue()
    for version in range(1_000):
        queue.add(_covered(1, version))
    queue.add(_serving(1))
    assert [r.WhichOneof("what") for r in queue.take(10)] == ["covered", "serving"]
    assert queue.take(10)[0].covered.manifest_version == 999
    queue.answered()
    assert len(queue) == 0


def test_an_older_epoch_does_not_replace_a_newer_one() -> None:
    """A task of an earlier stay that ends late has nothing to say any more."""
    queue = ReportQueue()
    queue.add(_covered(1, 5, epoch=9))
    queue.add(_covered(1, 6, epoch=8))
    assert [r.epoch for r in queue.take(10)] == [9]


def test_an_unanswered_batch_is_sent_again_first_unless_replaced() -> None:
    """What was in flight comes again before what waits; what was replaced meanwhile does not."""
    queue = ReportQueue()
    for region in (1, 2):
        queue.add(_covered(region, 1))
    assert len(queue.take(10)) == 2
    queue.add(_covered(2, 2))
    queue.add(_covered(3, 1))
    assert [r.region_id for r in queue.take(10)] == [1, 2], "one batch flies at a time"
    queue.unanswered()
    batch = queue.take(10)
    assert [(r.region_id, r.covered.manifest_version) for r in batch] == [(1, 1), (2, 2), (3, 1)]


def test_batches_are_bounded() -> None:
    """A failover of many regions is reported in batches of a known size."""
    queue = ReportQueue()
    for region in range(25):
        queue.add(_serving(region))
    sizes = []
    while batch := queue.take(10):
        sizes.append(len(batch))
        queue.answered()
    assert sizes == [10, 10, 5]
