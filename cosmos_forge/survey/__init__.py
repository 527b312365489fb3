"""What a dataset is made of, told before anything is trained: `forge data`."""
