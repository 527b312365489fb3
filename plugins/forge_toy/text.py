"""A text encoder without weights: the same words always give the same vectors, in every process and on every machine.

Shape suffixes: B batch, L tokens, D width of a token.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cosmos_forge.types import TextEmbedding
from forge_toy.plugin import ToyTextOptions

if TYPE_CHECKING:
    from cosmos_forge import Context

UNIFORM_BYTE_STD = math.sqrt((256**2 - 1) / 12)


class ToyTextEncoder:
    """A token is a word, in lower case and without punctuation: its vector of unit deviation plus a sinusoidal position
    (Vaswani et al. 2017, arXiv 1706.03762, section 3.5)."""

    def __init__(self, options: ToyTextOptions, context: Context) -> None:
        self.options = options
        self.device = context.device

    def encode(self, prompts: Sequence[str]) -> TextEmbedding:
        """Embeddings, float32; a prompt without a word is all mask and zeros."""
        length, width = self.options.max_tokens, self.options.width
        tokens_BLD = torch.zeros(len(prompts), length, width)
        mask_BL = torch.zeros(len(prompts), length, dtype=torch.bool)
        position_LD = positions(length, width)
        for b, prompt in enumerate(prompts):
            for i, word in enumerate(re.findall(r"\w+", prompt.lower())[:length]):
                tokens_BLD[b, i] = word_vector(word, width) + position_LD[i]
                mask_BL[b, i] = True
        return TextEmbedding(tokens_BLD.to(self.device), mask_BL.to(self.device))


def word_vector(word: str, width: int) -> Tensor:
    """Zero mean and unit deviation; one byte of the word's SHAKE-256 a component."""
    data = torch.frombuffer(bytearray(hashlib.shake_256(word.encode()).digest(width)), dtype=torch.uint8)
    return (data.float() - 127.5) / UNIFORM_BYTE_STD


def positions(length: int, width: int) -> Tensor:
    """Sines in the first half of the width, cosines in the second."""
    half = width // 2
    rates_D = torch.exp(-math.log(10000.0) * torch.arange(half) / half)
    angles_LD = torch.arange(length)[:, None] * rates_D
    return torch.cat([angles_LD.sin(), angles_LD.cos()], dim=1)
