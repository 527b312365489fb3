"""Prompts by Pixtral 12B (Agrawal et al. 2024, arXiv 2410.07073), by way of transformers.

Upstream: cosmos-predict1 runs these weights with code of its own, samples at temperature 0.01, and never shows the
model a person's prompt.
Shape suffixes: C channels, H height, W width, L tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, LlavaForConditionalGeneration

from cosmos_forge import Context, ForgeError
from forge_upsample.pictures import fit, to_picture
from forge_upsample.plugin import PixtralOptions

# Mean and deviation of pictures, as CLIP has them.
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
DEVIATION = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
FIX = "the folder must hold config.json, tokenizer and weights; `forge fetch` gets what is published"


def build(options: PixtralOptions, context: Context) -> Pixtral:
    """The prompt upsampler `pixtral` of a recipe."""
    return Pixtral(options.folder_of(options.model, context.files), options, context.device, context.dtype)


class Pixtral:
    """`kinds.PromptUpsampler`. Raises ForgeError for files that are missing or are no such model."""

    def __init__(self, folder: Path, options: PixtralOptions, device: torch.device, dtype: torch.dtype) -> None:
        self.options, self.device, self.dtype = options, device, dtype
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            loaded: Any = LlavaForConditionalGeneration.from_pretrained(
                folder, dtype=dtype, local_files_only=True, output_loading_info=True
            )
        except (OSError, ValueError) as error:
            what = f"[prompt_upsampler] Pixtral cannot be loaded from {folder}: {str(error).strip().splitlines()[0]}"
            raise ForgeError(what, FIX) from error
        model, report = loaded
        if missing := sorted(report["missing_keys"]):
            what = f"[prompt_upsampler] the weights in {folder} lack {len(missing)} tensors, as {missing[0]}"
            raise ForgeError(what, FIX)
        if self.tokenizer.convert_tokens_to_ids("[IMG]") != model.config.image_token_index:
            raise ForgeError(f"[prompt_upsampler] the tokenizer in {folder} is not this model's", FIX)
        self.model: Any = model.eval().requires_grad_(False).to(device)

    @torch.no_grad()
    def upsample(self, prompt: str, frame_CHW: Tensor) -> str:
        """Greedy, so that the same prompt and frame give the same answer. Raises ForgeError where it is cut short."""
        options, patch = self.options, self.model.config.vision_config.patch_size
        pixels_CHW = to_pixels(frame_CHW, options.max_side, patch)
        height, width = pixels_CHW.shape[1:]
        # A prompt cannot end its own turn, nor ask for pictures that are not there.
        request = options.request(prompt.replace("[", "(").replace("]", ")"))
        text = f"<s>[INST]{image_tokens(height // patch, width // patch)}\n{request}[/INST]"
        ids_1L = self.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"].to(self.device)
        whole_1L = self.model.generate(
            input_ids=ids_1L,
            attention_mask=torch.ones_like(ids_1L),
            pixel_values=pixels_CHW[None].to(self.device, self.dtype),
            image_sizes=torch.tensor([[height, width]]),
            max_new_tokens=options.max_new_tokens,
            do_sample=False,
            pad_token_id=self.tokenizer.eos_token_id,
        )
        answer_L = whole_1L[0, ids_1L.shape[1] :].tolist()
        if self.tokenizer.eos_token_id not in answer_L:
            what = f"[prompt_upsampler] Pixtral needed more than {options.max_new_tokens} tokens"
            raise ForgeError(what, "raise max_new_tokens")
        answer: str = self.tokenizer.decode(answer_L, skip_special_tokens=True)
        return answer.strip()


def image_tokens(rows: int, columns: int) -> str:
    """What stands for a picture of so many patches: a token each, one after every row, and another at the end."""
    return "[IMG_BREAK]".join(["[IMG]" * columns] * rows) + "[IMG_END]"


def to_pixels(frame_CHW: Tensor, longest: int, patch: int) -> Tensor:
    """uint8 RGB -> float32 as CLIP has it, whole patches a side; bicubic, as Pixtral's image processor."""
    picture = to_picture(frame_CHW)
    width, height = (-(-side // patch) * patch for side in fit(*picture.size, longest))
    pixels_HWC = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
    return (torch.from_numpy(pixels_HWC / 255).permute(2, 0, 1) - MEAN) / DEVIATION
