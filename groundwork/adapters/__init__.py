"""The implementations that touch the world: clock, logs, TLS, RPC, object stores, log stores."""
