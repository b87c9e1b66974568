"""How the datanode touches the world."""
