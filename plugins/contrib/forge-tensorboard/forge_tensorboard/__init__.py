"""The logger `tensorboard`."""
