"""The logger `csv`: training steps as a table."""
