"""Pure agreements: no I/O, no clock, no randomness."""
