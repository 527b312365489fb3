"""What a plan will take of GPUs, time and disks, told before anything is downloaded. Imports no torch.

rates.py: what was measured, and time from operations. memory.py: a training step's parts. disk.py: what stages leave.
forecast.py: all of it for a plan; limits.py: what does not fit, and the nearest change that does. words.py: as text.
"""
