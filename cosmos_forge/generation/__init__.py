"""What the stage `generate` is made of."""
