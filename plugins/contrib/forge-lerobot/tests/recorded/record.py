"""`python record.py FOLDER`, where lerobot is installed: writes a data set as that package does.

`v2.1` beside this file comes from lerobot 0.3.3 and `v3.0` from lerobot 0.4.4, without `data/` and what `meta/` says of
statistics, which nothing here reads. Each frame is a shade of grey of its own.
"""

import sys

import numpy as np
from lerobot.datasets.lerobot_dataset import CODEBASE_VERSION, LeRobotDataset

LENGTHS = (9, 12)
CAMERA = {"dtype": "video", "shape": (64, 96, 3), "names": ["height", "width", "channels"]}
NUMBERS = {"dtype": "float32", "shape": (2,), "names": ["a", "b"]}
FEATURES = {"observation.images.up": CAMERA, "observation.images.wrist": CAMERA, "observation.state": NUMBERS}

recording = LeRobotDataset.create("someone/greys", fps=15, root=sys.argv[1], features=FEATURES, use_videos=True)
for episode, length in enumerate(LENGTHS):
    for index in range(length):
        up = np.full((64, 96, 3), 40 + 100 * episode + 5 * index, np.uint8)
        frame = {
            "observation.images.up": up,
            "observation.images.wrist": 255 - up,
            "observation.state": np.array([episode, index], np.float32),
        }
        task = f"Pick up cube {episode}."
        if CODEBASE_VERSION == "v2.1":
            recording.add_frame(frame, task)
        else:
            recording.add_frame({**frame, "task": task})
    recording.save_episode()
if CODEBASE_VERSION != "v2.1":
    recording.finalize()
