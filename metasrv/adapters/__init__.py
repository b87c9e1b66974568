"""How metasrv touches the world: consensus, gRPC, HTTP."""
