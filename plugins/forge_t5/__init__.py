"""The text encoders `t5` and `t5-pickles`."""
