"""How long operations take on a GPU: the rates that were measured, and time reckoned from them. Imports no torch.

The operations of a network are parted in two, since they run at rates of their own: `linear`, matrix products with
weights, and `attention`, those between tokens. What has no operations worth counting (norms, gates, rotations) is in
the rate of the linear ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cosmos_forge.gpus import Gpu
from cosmos_forge.memory import Level

# What whole steps and videos have been held against: docs/forecast.md.
MEASURED_ON, MEASURED_PROCESSES, MEASURED_TOKENS = "h200", 2, (2_304, 56_320)
# Operations a second by the peak of the GPU that they were measured on, 989 TFLOP/s; torch 2.11.0, cuDNN 9.19.0, one
# NVIDIA H200, bfloat16, 56,320 tokens, 32 heads of 128. docs/forecast.md holds them against whole steps.
ATTENTION = 617 / 989  # forward: cuDNN's kernel, by itself
ATTENTION_BACKWARD = 552 / 2.5 * 2 / 989  # the same; it computes the scores again, which is not counted as an operation
LINEAR = 591 / 989  # what a compiled forward pass of 3.634 s leaves beside attention (benchmarks/forward.py)
EAGER = 3.954 / 3.634  # an evaluation that is not compiled, by one that is (benchmarks/forward.py)
SHARED = 2 * 44.9 / 83.0  # attention of which two processes have half the heads each, exchange included; NVLink
# Seconds of a training pass that no operations account for: alone, and where weights or tokens are exchanged; what
# steps of 2,304 tokens on one GPU leave, and of 12,720, 25,440 and 56,320 on two.
BESIDE, BESIDE_SHARED = 0.02, 0.17
# Seconds in which a processor hands a GPU the work of one block's forward and backward pass, however small the clip:
# alone, and where weights or tokens are exchanged. Processors differ: 28 blocks took 0.15 to 0.18 s, and 0.31 to 0.38.
HANDING, HANDING_SHARED = 0.16 / 28, 0.345 / 28
LINK = 262e9  # bytes a second and GPU, in and out: reduce-scatter of 512 MiB by two GPUs over NVLink


@dataclass(frozen=True)
class Work:
    """Operations of one forward pass of a network on one sample. tokens: that it makes of it."""

    linear: float
    attention: float
    tokens: int


def work(model: Any, latent_shape: tuple[int, ...], max_tokens: int) -> Work | None:
    """Of a model's options; None for those that do not tell. Gradients of weights take as many operations as the
    matrix products that the weights are in, which is how these are told from attention."""
    if not hasattr(model, "flops"):
        return None
    forward, frozen, trained = (model.flops(latent_shape, max_tokens, each) for each in (None, True, False))
    linear = trained - frozen
    return Work(linear, forward - linear, model.tokens(latent_shape))


def evaluation(work: Work, gpu: Gpu, compiled: bool = True, parts: int = 1) -> float:
    """Seconds of one forward pass. parts: processes that share the sample."""
    attention = work.attention * (SHARED if parts > 1 else 1.0)
    seconds = (work.linear / LINEAR + attention / ATTENTION) / (gpu.tflops * 1e12) / parts
    return seconds if compiled else EAGER * seconds


def training_pass(
    work: Work, gpu: Gpu, levels: Sequence[Level], *, adapters: int | None, compiled: bool = True, parts: int = 1
) -> float:
    """Seconds of a forward and a backward pass on one sample, with what blocks compute again. adapters: numbers that
    train where most are frozen, else None."""
    share = {level: levels.count(level) / len(levels) for level in levels}
    again = 1.0 - share.get("none", 0.0) - share.get("products", 0.0)
    linear = work.linear * (2 + again + (adapters is None)) + 6.0 * (adapters or 0) * work.tokens
    shared = SHARED if parts > 1 else 1.0
    attention = shared * work.attention * (1 + share.get("block", 0.0))
    backward = shared * 2 * work.attention
    seconds = linear / LINEAR + attention / ATTENTION + backward / ATTENTION_BACKWARD
    return seconds / (gpu.tflops * 1e12) / parts * (1.0 if compiled else EAGER)


def whole_pass(computing: float, blocks: int, shared: bool) -> float:
    """Seconds of a training pass of so many blocks, of which the GPU computes for so many. shared: weights or tokens
    are exchanged with other processes."""
    return max(computing + (BESIDE_SHARED if shared else BESIDE), handing(blocks, shared))


def handing(blocks: int, shared: bool) -> float:
    """Seconds that the processor needs for a training pass."""
    return blocks * (HANDING_SHARED if shared else HANDING)


def exchange(gathered: float, reduced: float, processes: int) -> float:
    """Seconds in which every process gets its missing part of `gathered` bytes, and gradients of so many are added
    up."""
    return (gathered + reduced) * (processes - 1) / processes / LINK


def optimizer_step(trained: float, state_bytes: float, average: bool, gpu: Gpu) -> float:
    """Seconds to read gradients, weights, moments and averages of so many numbers, and write all but the first."""
    return trained * (4 + 2 * (4 + state_bytes + 4 * average)) / (gpu.bandwidth * 1e9)
