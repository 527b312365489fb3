"""The command `forge clips`: long videos into shots."""
