"""The metadata service: a replicated state machine that keeps region-to-datanode leases and hands lost regions over."""
