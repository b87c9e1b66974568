"""The stateless frontend: line protocol and SQL in, routed to the datanodes that own the regions."""
