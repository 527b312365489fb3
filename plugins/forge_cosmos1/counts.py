"""What the network takes: tokens, operations, and what its blocks keep for their gradients. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable

from forge_cosmos1.variants import PATCH, DiTConfig

# Of layers that keep their input once they are adapted: that input's width, in the model's. The inputs of queries, keys
# and values are reckoned with anyway, and that of an output projection is what attention keeps.
INPUTS = {"layer1": 1.0, "layer2": 4.0}


def count_tokens(latent_shape: tuple[int, int, int, int]) -> int:
    """Of a sample with latents of (C, T, H, W)."""
    _, frames, rows, columns = latent_shape
    return frames * (rows // PATCH) * (columns // PATCH)


def count_flops(config: DiTConfig, tokens: int, text_tokens: int, frozen: bool | None) -> float:
    """Of `video2world.Network` and one sample, a multiplication and its addition being two; only matrix products.

    frozen: None for a forward pass; else of a forward and a backward pass, without or with the gradients of weights.
    Attention has no weights: its backward pass is two forward passes whatever is frozen.
    """
    width, low, hidden = config.model_channels, config.adaln_lora_dim, int(config.model_channels * config.mlp_ratio)
    by_token = 4 * width**2 + 2 * width**2 + 2 * width * hidden  # self-attention, cross-attention, MLP
    by_text = 2 * config.crossattn_emb_channels * width
    block = tokens * by_token + text_tokens * by_text + 3 * 4 * width * low
    ends = tokens * PATCH**2 * width * (config.in_channels + config.latent_channels) + 4 * width**2 + 3 * width * low
    linear = 2 * (config.num_blocks * block + ends)
    attention = 2 * config.num_blocks * 2 * tokens * (tokens + text_tokens) * width
    if frozen is None:
        return linear + attention
    return (2 if frozen else 3) * linear + 3 * attention


def count_activations(
    config: DiTConfig, tokens: int, frozen: bool, compiled: bool, adapted: Iterable[str]
) -> dict[str, float]:
    """The fields of `types.Activations`, in elements; upper bounds. frozen: but for adapters of queries and values, and
    of the layers of `INPUTS` that `adapted` names.

    Counted in streams, numbers as wide as the model for every token. `test_activations.py` counts what is kept; what
    works was measured, by the peaks of a forward pass and of steps (`benchmarks/forward.py`, `train_step.py`).

    - Every block keeps queries and keys before and after norm and rotation and the values (5), the queries of
      cross-attention likewise (2), what attentions gave (2), the MLP's hidden layer (4), and the residual stream at its
      three norms (3).
    - A frozen linear layer needs no input, so of these only those of the adapters are kept (2).
    - If nothing is frozen, the inputs of all sub-blocks are (3), the hidden layer after its gelu too (4), and what
      gates multiply, for the gradients of the modulations (3).
    - Eager, norms keep float32 copies besides (3, or 12); compiled, they are computed again from the rest.
    - Half a stream or a whole one is for what is small.
    """
    stream, number = tokens * config.model_channels, tokens * config.num_heads
    # float32 numbers of a token and head, so 2 elements each: sums of two softmaxes; three RMS norms and the like.
    sums, norms = 2 * 2 * number, 2 * 5 * number
    whole = {(True, True): 18.5, (True, False): 22.0, (False, True): 26.5, (False, False): 39.0}[frozen, compiled]
    whole += sum(INPUTS[layer] for layer in adapted) if frozen else 0.0
    shared = stream + 2 * stream / config.num_heads  # position embedding, and rotary cosines and sines in float32
    # What a product gives is kept, and not what is made of it, but for the MLP's last where an eager block cannot know
    # that nobody needs it. If weights train, the modulations' gradients need what their gates multiply.
    products = 13.0 + (not frozen or not compiled)
    return {
        "whole": whole * stream + sums + norms,
        "products": (products + 0.5) * stream + sums,
        "attention": 3 * stream + sums,
        "block": stream,
        "working": (10 if compiled else 15) * stream + shared,
        # An eager block makes all that lies between its products again before its backward pass begins.
        "flowing": (4.0 if compiled else 15.0 + whole - products) * stream + shared,
    }
