"""What the tokenizer needs for a clip of the published size; prints it, so run it with `-s`."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from forge_cosmos1.tokenizer_network import Autoencoder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU with 12 GiB"),
]
AT_ONCE = 2  # latent frames, as `tokenizer.POSITIONS_AT_ONCE` gives for this size


@pytest.fixture(scope="module")
def net() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder().cuda().requires_grad_(False)


def measured(what: str, function: Callable[..., Tensor], given: Tensor) -> float:
    """Peak GiB of the second of two calls, weights and the given tensor included."""
    for _ in range(2):
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        function(given, AT_ONCE)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() / 2**30
    print(f"\n{what} 121 frames of 704x1280, bf16: {seconds:.2f} s, {peak:.1f} GiB")
    return peak


def test_published_size_fits_in_12_gib(net: Autoencoder) -> None:
    net = net.bfloat16()
    video = torch.rand(1, 3, 121, 704, 1280, device="cuda", dtype=torch.bfloat16) * 2 - 1
    assert measured("encode", net.encode, video) < 12
    latents = torch.randn(1, 16, 16, 88, 160, device="cuda", dtype=torch.bfloat16)
    assert measured("decode", net.decode, latents) < 12


def test_piece_by_piece_equals_whole(net: Autoencoder) -> None:
    net = net.double()
    video = torch.rand(1, 3, 25, 64, 96, device="cuda", dtype=torch.float64) * 2 - 1
    latents = net.encode(video)
    torch.testing.assert_close(net.encode(video, 1), latents, atol=1e-10, rtol=0)
    torch.testing.assert_close(net.decode(latents, 1), net.decode(latents), atol=1e-9, rtol=0)
