"""Prompts to embeddings, letter by letter.

Shape suffixes: B batch, L tokens, D width of a token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cosmos_forge import Context
from cosmos_forge.types import TextEmbedding
from new_plugin.plugin import NewPluginOptions


class NewPlugin:
    """See `cosmos_forge.kinds.TextEncoder`."""

    def __init__(self, options: NewPluginOptions, context: Context) -> None:
        self.options, self.context = options, context
        # Always the same vectors, whatever the run's seed: embeddings are kept, and shared by runs.
        generator = torch.Generator().manual_seed(0)
        self.bytes = torch.randn(256, options.width, generator=generator)
        self.places_LD = torch.randn(options.max_tokens, options.width, generator=generator)

    def encode(self, prompts: Sequence[str]) -> TextEmbedding:
        """Embeddings, float32; exactly zero where masked."""
        tokens_BLD = torch.zeros(len(prompts), self.options.max_tokens, self.options.width)
        mask_BL = torch.zeros(len(prompts), self.options.max_tokens, dtype=torch.bool)
        for b, prompt in enumerate(prompts):
            letters = torch.tensor(list(prompt.encode()[: self.options.max_tokens]), dtype=torch.long)
            tokens_BLD[b, : len(letters)] = self.bytes[letters] + self.places_LD[: len(letters)]
            mask_BL[b, : len(letters)] = True
        return TextEmbedding(tokens_BLD.to(self.context.device), mask_BL.to(self.context.device))
