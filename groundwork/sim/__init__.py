"""A fault-injecting twin for each port; each passes the same contract suite as the real thing."""
