"""Twins of the ports, with faults on demand and virtual time. They pass the same contract suites as the real ones."""
