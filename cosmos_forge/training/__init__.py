"""What the stage `train` is made of; the loop itself stands in `stages/train.py`."""
