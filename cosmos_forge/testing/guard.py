"""The contracts of guardrails and prompt upsamplers.

Shape suffixes: C channels, T time, H height, W width.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from cosmos_forge.testing.contract import Contract
from cosmos_forge.types import Refusal


def make_frames(frames: int = 9, height: int = 48, width: int = 64) -> Tensor:
    """A soft gradient that brightens a little: uint8 RGB, (3, T, H, W)."""
    rows, columns = torch.linspace(60, 160, height).view(-1, 1), torch.linspace(0, 40, width)
    picture_CHW = torch.stack([rows + columns, rows.expand(-1, width), 200 - columns.expand(height, -1)])
    return (picture_CHW[:, None] + torch.arange(frames).view(1, -1, 1, 1)).round().to(torch.uint8)


class GuardrailContract(Contract):
    """allowed, refused: prompts that the guardrail lets pass and refuses, with the options of the test. passes: whether
    it lets the frames of `make_frames` pass. None where there is no telling, as with random weights."""

    kind = "guardrail"
    optional = ("check_prompt", "check_frames")  # one of them is enough; see `looks_at`
    allowed: str | None = "a robot arm lifts a red cup off the table"
    refused: str | None = None
    passes: bool | None = True

    def test_promises_what_it_does(self, tmp_path: Path) -> None:
        looks_at, guardrail = self.read_options(tmp_path).looks_at, self.make(tmp_path)
        assert looks_at and set(looks_at) <= {"prompt", "frames"}, (
            f'options.looks_at must hold "prompt", "frames" or both, got {looks_at!r}'
        )
        methods = {"prompt": "check_prompt", "frames": "check_frames"}
        missing = [methods[what] for what in looks_at if not callable(getattr(guardrail, methods[what], None))]
        assert not missing, f"options.looks_at says {looks_at}, but the guardrail has no {missing}"

    def test_prompts(self, tmp_path: Path) -> None:
        if "prompt" not in self.read_options(tmp_path).looks_at:
            pytest.skip("it does not look at prompts")
        guardrail = self.make(tmp_path)
        for prompt, passes in ((self.allowed, True), (self.refused, False)):
            if prompt is None:
                continue
            said = guardrail.check_prompt(prompt)
            assert said is None or isinstance(said, Refusal), f"check_prompt gives a Refusal or None, got {said!r}"
            assert (said is None) is passes, f"{prompt!r} must {'pass' if passes else 'be refused'}, got {said!r}"
            assert said is None or said.category, "a Refusal names its category"
            assert guardrail.check_prompt(prompt) == said, "the same prompt must get the same answer"

    @pytest.mark.parametrize("frames", [1, 9])
    def test_frames(self, tmp_path: Path, frames: int) -> None:
        if "frames" not in self.read_options(tmp_path).looks_at:
            pytest.skip("it does not look at frames")
        guardrail, frames_CTHW = self.make(tmp_path), make_frames(frames)
        said = guardrail.check_frames(frames_CTHW)
        assert torch.equal(frames_CTHW, make_frames(frames)), "check_frames must leave the frames it gets as they are"
        if isinstance(said, Refusal):
            assert said.category, "a Refusal names its category"
            assert not self.passes, f"these frames must pass, got {said!r}"
            return
        assert isinstance(said, Tensor), f"check_frames gives a Refusal or frames, got {said!r}"
        assert self.passes is not False, "these frames must be refused"
        assert (said.dtype, said.shape) == (torch.uint8, frames_CTHW.shape), (
            f"frames must be uint8 {tuple(frames_CTHW.shape)}, got {said.dtype} {tuple(said.shape)}"
        )


class PromptUpsamplerContract(Contract):
    """Options must keep the upsampler on this machine: a tiny model, or a server of the test's own."""

    kind = "prompt_upsampler"

    def test_gives_a_prompt(self, tmp_path: Path) -> None:
        upsampler, frame_CHW = self.make(tmp_path), make_frames(1)[:, 0]
        for prompt in ("a robot arm lifts a red cup", ""):
            said = upsampler.upsample(prompt, frame_CHW)
            assert isinstance(said, str) and said.strip(), f"upsample({prompt!r}, frame) gives text, got {said!r}"
        assert torch.equal(frame_CHW, make_frames(1)[:, 0]), "upsample must leave the frame it gets as it is"
