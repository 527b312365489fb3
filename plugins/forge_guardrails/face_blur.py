"""Faces in frames, pixelated.

Upstream: cosmos-predict1, auxiliary/guardrail/face_blur_filter. A block there is the blend of four pixels; here it is
the mean of all that it stands for, which tells less of a face.
Shape suffixes: C channels, T time, H height, W width, N boxes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cosmos_forge import Context
from forge_guardrails.files import load_tensors
from forge_guardrails.plugin import FaceBlurOptions
from forge_guardrails.retinaface import RetinaFace

WEIGHTS = "face_blur_filter/Resnet50_Final.pth"
MEAN_BGR = (104.0, 117.0, 123.0)
CANDIDATES, OVERLAP, FACES = 5000, 0.4, 750  # as upstream: boxes looked at, shared area of one face's, faces at most


def build(options: FaceBlurOptions, context: Context) -> FaceBlur:
    """The guardrail `face-blur` of a recipe."""
    folder = options.folder_of(options.model, context.files)
    net = RetinaFace()
    load_tensors(net, folder / WEIGHTS, "", "module.", unused="LandmarkHead.")
    return FaceBlur(net, options, context.device)


class FaceBlur:
    """`kinds.Guardrail` of frames; refuses none."""

    def __init__(self, net: RetinaFace, options: FaceBlurOptions, device: torch.device) -> None:
        self.net = net.eval().requires_grad_(False).to(device)
        self.options, self.device = options, device

    def check_frames(self, frames_CTHW: Tensor) -> Tensor:
        """The frames, with every face that is found reduced to a few blocks."""
        changed_CTHW = frames_CTHW.clone()
        for frame_CHW in changed_CTHW.unbind(dim=1):
            for left, top, right, bottom in self.find(frame_CHW).tolist():
                pixelate(frame_CHW[:, top:bottom, left:right], self.options.blocks)
        return changed_CTHW

    @torch.no_grad()
    def find(self, frame_CHW: Tensor) -> Tensor:
        """Boxes (N, 4) of faces that are sure and large enough, within the frame: left, top, right, bottom."""
        bgr_CHW = frame_CHW.to(self.device, torch.float32).flip(0) - torch.tensor(MEAN_BGR).view(3, 1, 1).to(
            self.device
        )
        boxes_N4, sure_N = (each[0].cpu() for each in self.net(bgr_CHW[None]))
        candidates = sure_N > self.options.confidence
        boxes_N4, sure_N = boxes_N4[candidates], sure_N[candidates]
        order = sure_N.argsort(descending=True, stable=True)[:CANDIDATES]
        boxes_N4 = boxes_N4[order]
        boxes_N4 = boxes_N4[keep_one_a_face(boxes_N4)[:FACES]].int()
        large = (boxes_N4[:, 2:] - boxes_N4[:, :2] >= self.options.smallest).all(dim=1)
        height, width = frame_CHW.shape[1:]
        return boxes_N4[large].clamp(min=0).minimum(torch.tensor([width, height, width, height], dtype=torch.int32))


def keep_one_a_face(boxes_N4: Tensor) -> list[int]:
    """Which of the boxes, surest first, share at most OVERLAP of their common area with a surer one that is kept."""
    sides_N2 = boxes_N4[:, 2:] - boxes_N4[:, :2] + 1  # pixels, both ends counted, as upstream
    areas_N = sides_N2.prod(dim=1)
    left = torch.arange(len(boxes_N4))
    kept = []
    while len(left):
        best, left = int(left[0]), left[1:]
        kept.append(best)
        corners = boxes_N4[left, :2].maximum(boxes_N4[best, :2]), boxes_N4[left, 2:].minimum(boxes_N4[best, 2:])
        shared_N = (corners[1] - corners[0] + 1).clamp(min=0).prod(dim=1)
        left = left[shared_N / (areas_N[left] + areas_N[best] - shared_N) <= OVERLAP]
    return kept


def pixelate(region_CHW: Tensor, blocks: int) -> None:
    """Replaces a region, uint8, by `blocks` x `blocks` even patches, in place; nothing where it is empty."""
    if region_CHW.numel():
        means = F.adaptive_avg_pool2d(region_CHW[None].float(), blocks)
        region_CHW.copy_(F.interpolate(means, region_CHW.shape[1:])[0].round().to(torch.uint8))
