"""Longer prompts.

Shape suffixes: C channels, H height, W width.
"""

from __future__ import annotations

from torch import Tensor

from cosmos_forge import Context
from new_plugin.plugin import NewPluginOptions


class NewPlugin:
    """See `cosmos_forge.kinds.PromptUpsampler`."""

    def __init__(self, options: NewPluginOptions, context: Context) -> None:
        self.options = options

    def upsample(self, prompt: str, frame_CHW: Tensor) -> str:
        """The prompt, ended like a sentence, and the sentence that is added; the picture is not looked at."""
        prompt = prompt.strip()
        if prompt and prompt[-1] not in ".!?":
            prompt += "."
        return f"{prompt} {self.options.sentence}".strip()
