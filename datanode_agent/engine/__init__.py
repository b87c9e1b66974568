"""The region engine: memtables, SSTs, manifests, compaction, replay."""
