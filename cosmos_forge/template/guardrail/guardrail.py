"""Flashes, which can harm people who are sensitive to light.

Shape suffixes: C channels, T time, H height, W width.
"""

from __future__ import annotations

from torch import Tensor

from cosmos_forge import Context
from cosmos_forge.types import Refusal
from new_plugin.plugin import NewPluginOptions


class NewPlugin:
    """See `cosmos_forge.kinds.Guardrail`."""

    def __init__(self, options: NewPluginOptions, context: Context) -> None:
        self.options = options

    def check_frames(self, frames_CTHW: Tensor) -> Refusal | Tensor:
        """uint8 RGB -> the same frames, or why they are refused. Looks at each piece of a long video by itself."""
        o = self.options
        brightness_T = frames_CTHW.float().mean(dim=(0, 2, 3)) / 255
        jumps_T = brightness_T.diff().abs() >= o.jump
        windows = jumps_T.int().unfold(0, min(o.window, len(jumps_T)), 1) if len(jumps_T) else jumps_T[None]
        worst = int(windows.sum(dim=1).max())
        if worst > o.most:
            return Refusal("flashing", f"its brightness jumps {worst} times within {o.window} frames")
        return frames_CTHW
