"""The KIND `new-plugin`."""
