"""The text encoder `t5-pickles`: looks captions up instead of encoding them.

Shape suffixes: B batch, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cosmos_forge import Context, ForgeError, Problem
from cosmos_forge.events import Note
from cosmos_forge.types import TextEmbedding
from forge_t5.captions import by_caption, faults, read_captions, unknown
from forge_t5.pickles import read_pickle
from forge_t5.plugin import T5PicklesOptions


class T5Pickles:
    """`kinds.TextEncoder`. Raises ForgeError where captions lack an embedding, or equal ones have different ones."""

    def __init__(self, options: T5PicklesOptions, context: Context) -> None:
        self.options = options
        self.device = context.device
        if found := list(faults(options.folder)):
            raise ForgeError(Problem(f"[text_encoder] {what}", fix=fix) for what, fix in found)
        captions, unused = read_captions(options.folder)
        for line in unused:
            context.emit(Note(line, warning=True))
        pickles = by_caption(options.folder, captions)
        if problems := [problem for paths in pickles.values() for problem in differences(paths)]:
            raise ForgeError(problems)
        self.pickles = {caption: paths[0] for caption, paths in pickles.items()}

    def encode(self, prompts: Sequence[str]) -> TextEmbedding:
        """Stored embeddings of captions; space around a prompt does not count. Raises ForgeError for other prompts."""
        tokens_BLD = torch.zeros(len(prompts), self.options.max_tokens, self.options.width)
        mask_BL = torch.zeros(len(prompts), self.options.max_tokens, dtype=torch.bool)
        for index, prompt in enumerate(prompts):
            tokens_LD = self._stored(prompt.strip())
            tokens_BLD[index, : len(tokens_LD)] = tokens_LD
            mask_BL[index, : len(tokens_LD)] = True
        return TextEmbedding(tokens_BLD.to(self.device), mask_BL.to(self.device))

    def _stored(self, caption: str) -> Tensor:
        """tokens_LD, float32, of the real tokens."""
        if caption not in self.pickles:
            what, fix = unknown(caption, self.pickles)
            raise ForgeError(f"[text_encoder] {what}", fix)
        path = self.pickles[caption]
        array_LD = read_pickle(path)
        length, width = array_LD.shape
        if width != self.options.width:
            what = f"[text_encoder] width is {self.options.width}, but {path} holds {width} numbers a token"
            raise ForgeError(what, f"width = {width}")
        if length > self.options.max_tokens:
            what = f"[text_encoder] {path} holds {length} tokens, max_tokens is {self.options.max_tokens}"
            raise ForgeError(what, f"max_tokens = {length}")
        return torch.from_numpy(array_LD.astype(np.float32))


def differences(pickles: Sequence[Path]) -> list[Problem]:
    """Those of equal captions that do not hold the same numbers as the first."""
    first, *others = pickles
    whole = first.read_bytes() if others else b""
    return [
        Problem(
            f"{first} and {other} hold different embeddings of the same caption",
            fix="delete the wrong one; `forge embed` then gives it the embedding of the other",
        )
        for other in others
        if other.read_bytes() != whole and not np.array_equal(read_pickle(first), read_pickle(other))
    ]
