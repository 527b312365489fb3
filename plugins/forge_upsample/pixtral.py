"""Prompts by Pixtral 12B (Agrawal et al. 2024, arXiv 2410.07073), by way of transformers.

Upstream: cosmos-predict1 runs these weights with code of its own, samples at temperature 0.01, and never shows the model a
person's prompt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoProcessor, LlavaForConditionalGeneration

from cosmos_forge import Context, ForgeError
from forge_upsample.pictures import to_picture
from forge_upsample.plugin import PixtralOptions


def build(options: PixtralOptions, context: Context) -> Pixtral:
    """The prompt upsampler `pixtral` of a recipe."""
    needs = options.needs()
    folder = context.files(needs[0]) if needs else Path(options.model)
    return Pixtral(folder, options, context.device, context.dtype)


class Pixtral:
    """`kinds.PromptUpsampler`. Raises ForgeError for files that are missing or are no such model."""

    def __init__(self, folder: Path, options: PixtralOptions, device: torch.device, dtype: torch.dtype) -> None:
        self.options, self.device, self.dtype = options, device, dtype
        fix = "the folder must hold config.json, processor, tokenizer and weights; `forge fetch` gets what is published"
        try:
            self.processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True)
            loaded: Any = LlavaForConditionalGeneration.from_pretrained(
                folder, dtype=dtype, local_files_only=True, output_loading_info=True
            )
        except (OSError, ValueError, ImportError) as error:
            what = f"[prompt_upsampler] Pixtral cannot be loaded from {folder}: {str(error).strip().splitlines()[0]}"
            raise ForgeError(what, fix) from error
        model, report = loaded
        if missing := sorted(report["missing_keys"]):
            what = f"[prompt_upsampler] the weights in {folder} lack {len(missing)} tensors, as {missing[0]}"
            raise ForgeError(what, fix)
        self.model: Any = model.eval().requires_grad_(False).to(device)

    @torch.no_grad()
    def upsample(self, prompt: str, frame_CHW: Tensor) -> str:
        """Greedy, so that the same prompt and frame give the same answer. Raises ForgeError where it is cut short."""
        # A prompt cannot end its own turn, nor ask for pictures that are not there.
        harmless = prompt.replace("[", "(").replace("]", ")")
        text = f"<s>[INST][IMG]\n{self.options.request(harmless)}[/INST]"
        picture = to_picture(frame_CHW, self.options.max_side)
        inputs = self.processor(text=text, images=[picture], add_special_tokens=False, return_tensors="pt")
        inputs = inputs.to(self.device, self.dtype)
        whole_1L = self.model.generate(
            **inputs, max_new_tokens=self.options.max_new_tokens, do_sample=False, temperature=None, top_p=None
        )
        answer_L = whole_1L[0, inputs["input_ids"].shape[1] :]
        if len(answer_L) >= self.options.max_new_tokens:
            what = f"[prompt_upsampler] Pixtral needed more than {self.options.max_new_tokens} tokens"
            raise ForgeError(what, "raise max_new_tokens")
        answer: str = self.processor.tokenizer.decode(answer_L, skip_special_tokens=True)
        return answer.strip()
