"""How the frontend touches the world."""
