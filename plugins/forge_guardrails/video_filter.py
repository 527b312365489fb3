"""The Cosmos video safety filter: a small classifier on SigLIP's view (Zhai et al. 2023, arXiv 2303.15343) of frames.

Upstream: cosmos-predict1, auxiliary/guardrail/video_content_safety_filter. There a frame that cannot be looked at is
passed over; here it stops the video.
Shape suffixes: B batch (frames), C channels, T time, H height, W width, D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import SiglipVisionModel

from cosmos_forge import Context
from cosmos_forge.types import Refusal
from forge_guardrails.categories import SCENES
from forge_guardrails.files import load_pretrained, load_tensors
from forge_guardrails.plugin import VideoFilterOptions

AT_ONCE = 16  # frames
WEIGHTS = "video_content_safety_filter/safety_filter.pt"


def build(options: VideoFilterOptions, context: Context) -> VideoFilter:
    """The guardrail `video-filter` of a recipe."""
    folder = options.folder_of(options.model, context.files)
    encoder = load_pretrained(SiglipVisionModel, options.folder_of(options.encoder, context.files), torch.float32)
    classifier = load_classifier(folder / WEIGHTS, encoder.config.hidden_size)
    return VideoFilter(encoder, classifier, options.every, options.allow, context.device)


class VideoFilter:
    """`kinds.Guardrail` of frames; float32 throughout, as upstream."""

    def __init__(
        self,
        encoder: Any,
        classifier: nn.Module,
        every: int,
        allow: Collection[str],
        device: torch.device,
    ) -> None:
        self.encoder, self.classifier = encoder.to(device), classifier.to(device)
        self.every, self.allow, self.device = every, allow, device

    def check_frames(self, frames_CTHW: Tensor) -> Refusal | Tensor:
        """The first frame of a class that is not safe refuses the video."""
        count = frames_CTHW.shape[1]
        chosen = sorted({*range(0, count, self.every), count - 1})
        for start in range(0, len(chosen), AT_ONCE):
            numbers = chosen[start : start + AT_ONCE]
            for number, scene in zip(numbers, self.classify(frames_CTHW[:, numbers]), strict=True):
                name = SCENES[scene]
                if scene and name not in self.allow:
                    return Refusal(name, f"frame {number + 1} of {count} looks like it")
        return frames_CTHW

    @torch.no_grad()
    def classify(self, frames_CTHW: Tensor) -> list[int]:
        """The class of each frame, a number of SCENES."""
        size = self.encoder.config.image_size
        pixels_BCHW = torch.stack([to_pixels(frame_CHW, size) for frame_CHW in frames_CTHW.unbind(dim=1)])
        seen_BD = self.encoder(pixel_values=pixels_BCHW.to(self.device)).pooler_output
        scenes_B = self.classifier(nn.functional.normalize(seen_BD, dim=-1)).argmax(dim=-1)
        return [int(scene) for scene in scenes_B]


def to_pixels(frame_CHW: Tensor, size: int) -> Tensor:
    """uint8 RGB -> square, float32, -1 to 1, as SigLIP's image processor does: bicubic, in whole steps of 1/255."""
    picture = Image.fromarray(frame_CHW.permute(1, 2, 0).contiguous().numpy())
    pixels_HWC = np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)
    return torch.from_numpy(pixels_HWC / 255 * 2 - 1).permute(2, 0, 1)


def load_classifier(path: Path, width: int) -> nn.Module:
    """Seven classes from an embedding of `width` numbers. Upstream: `SafetyClassifier`, under `network.layers`."""
    classifier = nn.Sequential(
        nn.Linear(width, 512),
        nn.BatchNorm1d(512),
        nn.ReLU(),
        nn.Linear(512, 256),
        nn.BatchNorm1d(256),
        nn.ReLU(),
        nn.Linear(256, len(SCENES)),
    )
    load_tensors(classifier, path, "model", "network.layers.")
    return classifier.eval().requires_grad_(False)
