"""Prompts to the last hidden state of a T5 encoder (Raffel et al. 2019, arXiv 1910.10683), by way of transformers.

Upstream: cosmos-predict1, auxiliary/t5_text_encoder.py, CosmosT5TextEncoder.
Shape suffixes: B batch, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import T5EncoderModel

from cosmos_forge import Context, ForgeError
from cosmos_forge.types import TextEmbedding
from forge_t5.plugin import T5Options

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PAD = 0  # of every T5


def build(options: T5Options, context: Context) -> T5:
    """The text encoder `t5` of a recipe."""
    folder = options.folder_of(options.model, context.files)
    return T5(folder, options.width, options.max_tokens, options.dtype, context.device)


class T5:
    """`kinds.TextEncoder`. Raises ForgeError for files that are missing or are not a T5 of the promised width."""

    def __init__(self, folder: Path, width: int, max_tokens: int, dtype: str, device: torch.device) -> None:
        self.device = device
        self.tokenizer = load_tokenizer(folder, max_tokens)
        self.model = load_model(folder, DTYPES[dtype])
        if self.model.config.d_model != width:
            raise ForgeError(
                f"[text_encoder] width is {width}, but {folder} gives {self.model.config.d_model}",
                fix=f"width = {self.model.config.d_model}",
            )
        self.model.to(device)  # type: ignore[arg-type]  # transformers' annotation

    def encode(self, prompts: Sequence[str]) -> TextEmbedding:
        """One prompt at a time, so that none sees the rounding of another's company."""
        encoded = [self._encode(prompt) for prompt in prompts]
        return TextEmbedding(torch.cat([tokens for tokens, _ in encoded]), torch.cat([mask for _, mask in encoded]))

    @torch.no_grad()
    def _encode(self, prompt: str) -> tuple[Tensor, Tensor]:
        """tokens_1LD, float32, and mask_1L; the last real token is the end of sentence, also where a prompt is cut."""
        encoding = self.tokenizer.encode(prompt)
        ids_1L = torch.tensor([encoding.ids], device=self.device)
        mask_1L = torch.tensor([encoding.attention_mask], device=self.device)
        tokens_1LD = self.model(input_ids=ids_1L, attention_mask=mask_1L).last_hidden_state
        return tokens_1LD.float().masked_fill(mask_1L[..., None] == 0, 0.0), mask_1L.bool()


def load_tokenizer(folder: Path, max_tokens: int) -> Tokenizer:
    """The tokenizer of `tokenizer.json`, read as it stands, padding and cutting to `max_tokens`."""
    path = folder / "tokenizer.json"
    if not path.exists():
        raise ForgeError(
            f"[text_encoder] {folder} holds no tokenizer.json",
            fix="`AutoTokenizer.from_pretrained(..).save_pretrained(folder)` of transformers writes one",
        )
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(max_tokens)
    tokenizer.enable_padding(pad_id=PAD, pad_token="<pad>", length=max_tokens)
    return tokenizer


def load_model(folder: Path, dtype: torch.dtype) -> T5EncoderModel:
    """The encoder, from `folder` and never from the network; a tensor that is missing is an error."""
    try:
        loaded: Any = T5EncoderModel.from_pretrained(
            folder, dtype=dtype, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        raise ForgeError(
            f"[text_encoder] no T5 can be loaded from {folder}: {str(error).splitlines()[0]}",
            fix="the folder must hold config.json and weights; `forge fetch` gets what is published",
        ) from error
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise ForgeError(
            f"[text_encoder] the weights in {folder} lack {len(missing)} tensors of the encoder, such as {missing[0]}",
            fix="give a folder with the weights of a whole T5, or of its encoder",
        )
    encoder: T5EncoderModel = model.eval().requires_grad_(False)
    return encoder
