"""Twins of metasrv's own ports, for tests."""
