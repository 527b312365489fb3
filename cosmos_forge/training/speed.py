"""How fast training is, in tokens, in operations, and beside what the GPU could do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cosmos_forge.events import Note
from cosmos_forge.gpus import known
from cosmos_forge.types import Context

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan


class Speed:
    """Counts tokens and model FLOPs of steps (Chowdhery et al. 2022, arXiv 2204.02311, appendix B): what a step has to
    compute, so that what blocks compute again does not look like progress. Adapters are taken to see every token.

    parameters: of the whole network, those that train requiring gradients. Says so where a GPU's peak is not known.
    """

    def __init__(self, plan: Plan, parameters: Iterable[Tensor], context: Context) -> None:
        self.model, self.max_tokens, self.processes = plan.options("model"), plan.max_tokens, context.world.size
        sizes = [(each.numel(), each.requires_grad) for each in parameters]
        self.trained = sum(size for size, trains in sizes if trains)
        self.frozen = 2 * self.trained < sum(size for size, _ in sizes)
        self.peak = _peak(context)
        self.tokens = self.flops = 0.0
        self.of_sample = lru_cache(self._of_sample)

    def add(self, latent_shape: Sequence[int], samples: int) -> None:
        """Takes up a step on so many samples with latents of (C, T, H, W), in all processes together."""
        if hasattr(self.model, "flops"):
            tokens, flops = self.of_sample(tuple(latent_shape))
            self.tokens, self.flops = self.tokens + samples * tokens, self.flops + samples * flops

    def take(self, seconds: float) -> dict[str, float | None]:
        """What was taken up since the last call, in so much time; by the names that `events.Step` has for it."""
        tokens, flops, self.tokens, self.flops = self.tokens, self.flops, 0.0, 0.0
        if not flops:
            return {}
        rate = flops / seconds / self.processes
        mfu = rate / self.peak if self.peak else None
        return {"tokens_per_second": tokens / seconds, "tflops": rate / 1e12, "mfu": mfu}

    def _of_sample(self, latent_shape: tuple[int, ...]) -> tuple[int, float]:
        tokens = self.model.tokens(latent_shape)
        flops = self.model.flops(latent_shape, self.max_tokens, self.frozen)
        return tokens, flops + (6.0 * self.trained * tokens if self.frozen else 0.0)


def _peak(context: Context) -> float | None:
    """Operations a second of this process's GPU, where they are known in the dtype that it computes in."""
    if context.device.type != "cuda" or context.dtype != torch.bfloat16:
        return None
    name = torch.cuda.get_device_name(context.device)
    gpu = known(name)
    if gpu is None:
        context.emit(Note(f"how fast a {name} could be is not known here, so MFU is not told"))
        return None
    return gpu.tflops * 1e12
