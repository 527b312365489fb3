"""The logger `wandb`."""
