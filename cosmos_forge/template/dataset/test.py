"""What holds for every dataset, of `new-plugin`; the package has to be installed (`pip install -e .`)."""

import numpy as np
import pytest
from PIL import Image

from cosmos_forge import ForgeError
from cosmos_forge.testing import DatasetContract


def write_clip(folder, frames=9, shade=0):
    """A clip that fades."""
    folder.mkdir(parents=True)
    for number in range(frames):
        pixels = np.full((24, 32, 3), shade + 10 * number, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:04d}.png")
    (folder / "caption.txt").write_text(f"a grey wall, {shade}")


class TestNewPlugin(DatasetContract):
    use = "new-plugin"

    def make_options(self, tmp_path):
        if not (tmp_path / "clips").exists():
            write_clip(tmp_path / "clips/dark")
            write_clip(tmp_path / "clips/light", shade=100)
            write_clip(tmp_path / "clips/short", frames=2)
        return {"path": str(tmp_path / "clips"), "num_frames": 9, "height": 16, "width": 32}

    def test_what_is_too_short_is_rejected(self, tmp_path):
        dataset = self.make(tmp_path)
        assert [dataset.key(index) for index in range(len(dataset))] == ["dark", "light"]
        assert dataset.rejected[0].reason == "it holds 2 pictures, and a clip needs 9"

    def test_a_damaged_picture_is_named(self, tmp_path):
        dataset = self.make(tmp_path)
        (tmp_path / "clips/light/0003.png").write_bytes(b"gone")
        with pytest.raises(ForgeError, match=r"0003\.png cannot be read"):
            dataset[1]
