"""Data sets that the lerobot package itself wrote (`recorded/record.py`): every frame is the right one."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("forge_lerobot", reason="forge-lerobot is not installed")

from cosmos_forge.testing import make_context
from forge_lerobot.dataset import LeRobot
from forge_lerobot.plugin import LeRobotOptions

RECORDED = Path(__file__).parent / "recorded"
LENGTHS = (9, 12)  # frames of the episodes


@pytest.mark.parametrize("camera", ["up", "wrist"])
@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_what_lerobot_wrote_is_read(version, camera, tmp_path):
    options = LeRobotOptions(path=str(RECORDED / version), camera=camera, num_frames=3, height=64, width=96)
    dataset = LeRobot(options, make_context(tmp_path))
    assert not dataset.rejected
    clips = [(episode, start) for episode, length in enumerate(LENGTHS) for start in range(0, length - 2, 3)]
    assert [dataset.key(i) for i in range(len(dataset))] == [f"episode_{e:06d}#{start}" for e, start in clips]
    for index, (episode, start) in enumerate(clips):
        clip = dataset[index]
        assert (clip.caption, clip.fps) == (f"Pick up cube {episode}.", 15)
        for offset in range(3):
            shade = 40 + 100 * episode + 5 * (start + offset)
            found = clip.frames_CTHW[:, offset].float().mean()
            assert found == pytest.approx(shade if camera == "up" else 255 - shade, abs=2)
