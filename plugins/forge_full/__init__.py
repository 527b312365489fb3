"""The method `full`: every parameter trains."""
