"""What holds for every guardrail, of `new-plugin`; the package has to be installed (`pip install -e .`)."""

import torch

from cosmos_forge.testing import GuardrailContract
from cosmos_forge.types import Refusal


class TestNewPlugin(GuardrailContract):
    use = "new-plugin"

    def test_flashes_are_refused(self, tmp_path):
        frames_CTHW = torch.zeros(3, 24, 8, 8, dtype=torch.uint8)
        frames_CTHW[:, ::2] = 255
        said = self.make(tmp_path).check_frames(frames_CTHW)
        assert isinstance(said, Refusal) and said.category == "flashing"
