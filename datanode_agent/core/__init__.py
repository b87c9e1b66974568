"""Pure decisions of the datanode: lease keeping, region states, replay, flush policy."""
