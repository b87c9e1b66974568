"""The datanode: keeps leases, writes lanes, serves regions."""
