"""What two or more of the programs must agree on: ids, entries, manifests, ports, and the adapters behind them."""
