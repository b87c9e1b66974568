"""The operator's program: look at a cluster, change it, run one locally, and drill it."""
