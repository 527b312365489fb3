"""RetinaFace on a ResNet-50 (Deng et al. 2019, arXiv 1905.00641), without its landmarks, under the published names.

Source: github.com/biubug6/Pytorch_Retinaface, whose `Resnet50_Final.pth` Cosmos-Predict1 uses.
Shape suffixes: B batch, C channels, H height, W width, N anchors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STEPS = (8, 16, 32)  # pixels between anchors, by level of the pyramid
SIZES = ((16, 32), (64, 128), (256, 512))  # of its anchors, in pixels
VARIANCES = (0.1, 0.2)  # scales of a box's offsets and of the logarithm of its size


class RetinaFace(nn.Module):
    """Frames to boxes. width: of the body's first layer; channels: of the pyramid; depths: blocks a layer."""

    def __init__(self, width: int = 64, channels: int = 256, depths: Sequence[int] = (3, 4, 6, 3)) -> None:
        super().__init__()
        leak = 0.1 if channels <= 64 else 0.0
        self.body = Body(width, depths)
        self.fpn = Pyramid([8 * width, 16 * width, 32 * width], channels, leak)
        self.ssh1, self.ssh2, self.ssh3 = (Fields(channels, leak) for _ in STEPS)
        self.ClassHead = nn.ModuleList(Head(channels, 2) for _ in STEPS)
        self.BboxHead = nn.ModuleList(Head(channels, 4) for _ in STEPS)

    def forward(self, frames_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """BGR, 0 to 255, less the mean of each channel -> boxes (B, N, 4): left, top, right, bottom in pixels; how
        sure it is of each (B, N)."""
        levels = self.fpn(self.body(frames_BCHW))
        levels = [ssh(level) for ssh, level in zip((self.ssh1, self.ssh2, self.ssh3), levels, strict=True)]
        offsets = torch.cat([head(level) for head, level in zip(self.BboxHead, levels, strict=True)], dim=1)
        scores = torch.cat([head(level) for head, level in zip(self.ClassHead, levels, strict=True)], dim=1)
        anchors = torch.cat(list(make_anchors([level.shape[2:] for level in levels]))).to(offsets)
        centres = anchors[:, :2] + offsets[..., :2] * VARIANCES[0] * anchors[:, 2:]
        halves = anchors[:, 2:] * torch.exp(offsets[..., 2:] * VARIANCES[1]) / 2
        return torch.cat([centres - halves, centres + halves], dim=-1), scores.softmax(dim=-1)[..., 1]


def make_anchors(sizes: Sequence[Sequence[int]]) -> Iterator[Tensor]:
    """(N, 4): centre x, centre y, width, height in pixels, for each level's rows and columns."""
    for step, lengths, (rows, columns) in zip(STEPS, SIZES, sizes, strict=True):
        y, x, length = torch.meshgrid(
            (torch.arange(rows) + 0.5) * step,
            (torch.arange(columns) + 0.5) * step,
            torch.tensor(lengths, dtype=torch.float32),
            indexing="ij",
        )
        yield torch.stack([x, y, length, length], dim=-1).reshape(-1, 4)


class Body(nn.Module):
    """ResNet (He et al. 2015, arXiv 1512.03385), with strides in the 3x3 convolutions; its last three layers."""

    def __init__(self, width: int, depths: Sequence[int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        before = width
        for number, depth in enumerate(depths, 1):
            inner = width * 2 ** (number - 1)
            first = Bottleneck(before, inner, stride=1 if number == 1 else 2)
            rest = (Bottleneck(4 * inner, inner, stride=1) for _ in range(depth - 1))
            self.add_module(f"layer{number}", nn.Sequential(first, *rest))
            before = 4 * inner

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        x_BCHW = F.max_pool2d(F.relu(self.bn1(self.conv1(x_BCHW))), 3, 2, 1)
        levels = []
        for number in (1, 2, 3, 4):
            x_BCHW = self.get_submodule(f"layer{number}")(x_BCHW)
            levels.append(x_BCHW)
        return levels[1:]


class Bottleneck(nn.Module):
    def __init__(self, before: int, inner: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = nn.Conv2d(inner, 4 * inner, 1, bias=False), nn.BatchNorm2d(4 * inner)
        self.downsample = None
        if stride > 1 or before != 4 * inner:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, 4 * inner, 1, stride, bias=False), nn.BatchNorm2d(4 * inner)
            )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        inner_BCHW = F.relu(self.bn1(self.conv1(x_BCHW)))
        inner_BCHW = F.relu(self.bn2(self.conv2(inner_BCHW)))
        past_BCHW = self.downsample(x_BCHW) if self.downsample else x_BCHW
        return F.relu(self.bn3(self.conv3(inner_BCHW)) + past_BCHW)


class Pyramid(nn.Module):
    """Feature pyramid (Lin et al. 2016, arXiv 1612.03144): coarse levels are added to finer ones."""

    def __init__(self, widths: Sequence[int], channels: int, leak: float) -> None:
        super().__init__()
        self.output1, self.output2, self.output3 = (_convolve(width, channels, 1, leak) for width in widths)
        self.merge1, self.merge2 = (_convolve(channels, channels, 3, leak) for _ in range(2))

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        fine, middle, coarse = self.output1(levels[0]), self.output2(levels[1]), self.output3(levels[2])
        middle = self.merge2(middle + F.interpolate(coarse, middle.shape[2:]))
        fine = self.merge1(fine + F.interpolate(middle, fine.shape[2:]))
        return [fine, middle, coarse]


class Fields(nn.Module):
    """SSH's context module (Najibi et al. 2017, arXiv 1708.03979): fields of 3, 5 and 7 pixels, by 3x3 convolutions."""

    def __init__(self, channels: int, leak: float) -> None:
        super().__init__()
        half, quarter = channels // 2, channels // 4
        self.conv3X3 = _convolve(channels, half, 3)
        self.conv5X5_1, self.conv5X5_2 = _convolve(channels, quarter, 3, leak), _convolve(quarter, quarter, 3)
        self.conv7X7_2, self.conv7x7_3 = _convolve(quarter, quarter, 3, leak), _convolve(quarter, quarter, 3)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        shared_BCHW = self.conv5X5_1(x_BCHW)
        wide_BCHW = self.conv7x7_3(self.conv7X7_2(shared_BCHW))
        return F.relu(torch.cat([self.conv3X3(x_BCHW), self.conv5X5_2(shared_BCHW), wide_BCHW], dim=1))


class Head(nn.Module):
    """`numbers` for each of two anchors a place."""

    def __init__(self, channels: int, numbers: int) -> None:
        super().__init__()
        self.numbers = numbers
        self.conv1x1 = nn.Conv2d(channels, 2 * numbers, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        found_BHWC = self.conv1x1(x_BCHW).permute(0, 2, 3, 1)
        return found_BHWC.reshape(len(x_BCHW), -1, self.numbers)


def _convolve(before: int, after: int, size: int, leak: float | None = None) -> nn.Sequential:
    """Convolution, norm and, where `leak` is given, leaky ReLU."""
    layers = [nn.Conv2d(before, after, size, padding=size // 2, bias=False), nn.BatchNorm2d(after)]
    return nn.Sequential(*layers, *([] if leak is None else [nn.LeakyReLU(leak)]))
