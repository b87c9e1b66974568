"""The engine's settings: limits and objectives, all with units. The `[engine]` section of datanode.toml."""

import msgspec


class EngineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an operator may set. The defaults fit a datanode with a few GiB of memory."""

    memory_budget_bytes: int = 1 << 30  # memtables and rows in flight; past it writes get OVERLOADED
    flush_bytes: int = 32 << 20  # a memtable larger than this is flushed
    flush_age_ms: float = 600_000  # and one older than this; idle regions advance their position as often
    settle_ms: float = 5_000  # after a takeover, what was replayed is flushed and its old lanes can go
    flushes_queued_max: int = 64
    replay_objective_ms: float = 2_000  # replaying a lane must take no longer than this
    replay_rate_bytes_per_ms: float = 100_000  # assumed until measured
    opens_parallel_max: int = 32
    flushes_parallel_max: int = 2
    files_max: int = 8  # of one size tier, before they are merged
    file_bytes_max: int = 128 << 20  # a file this large is merged no more
    delete_grace_ms: float = 60_000  # a scan elsewhere may still read a file that was merged away
    manifests_kept: int = 8  # newest versions; never fewer than two
    tick_ms: float = 200  # how often flush, compaction and clean-up are considered
    canary_ms: float = 500  # an idle lane proves itself this often
    probe_ms: float = 1_000  # and the object store
    tail_poll_ms: float = 5  # a preparing region looks for new entries this often
    manifest_wait_ms: float = 200  # a replay pass starts when none of its regions read a manifest for so long
    retry_ms: float = 50  # first wait after the store was unavailable; doubles up to retry_ms_max
    retry_ms_max: float = 2_000
    waiting_requests_max: int = 10_000
    handed_wait_ms: float = 300  # a lone write to a region that is being handed over waits so long to be sent on
    tell_again_ms: float = 10_000  # a region that failed says so again this often
