"""Compiled blocks compute what the network computes: exactly in float32, and as well as it does in bfloat16."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cosmos_forge.compiling import compile_blocks
from cosmos_forge.testing.fakes import make_context
from forge_cosmos1.dit import DiT, DiTConfig

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("g++"), reason="compiling for a CPU needs g++"),
]


def network() -> DiT:
    torch.manual_seed(0)
    # Angles as in bfloat16 whatever the rest is in, so that only rounding differs.
    config = DiTConfig(256, 6, 4, crossattn_emb_channels=64, adaln_lora_dim=32, rope_precision="bf16")
    net = DiT(config).requires_grad_(False)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.03).copy_(parameter.bfloat16())
    return net


def compiled(net: DiT) -> DiT:
    net = copy.deepcopy(net)
    compile_blocks(net, [f"blocks.{name}" for name in net.blocks], "blocks", make_context(Path()))
    return net


def run(net: DiT, dtype: torch.dtype) -> Tensor:
    torch.manual_seed(1)
    x, text, mask = torch.randn(1, 16, 3, 16, 16), torch.randn(1, 32, 64), torch.zeros(1, 1, 3, 16, 16)
    given = [each.bfloat16().to(dtype) for each in (x, torch.tensor([0.25]), text, torch.tensor([24.0]), mask)]
    return net.to(dtype)(*given).float()


def test_compiled_blocks() -> None:
    net = network()
    exact = run(net, torch.float32)
    torch.testing.assert_close(run(compiled(net), torch.float32), exact, atol=1e-5 * float(exact.abs().max()), rtol=0)

    def error(other: DiT) -> float:
        return float((run(other, torch.bfloat16) - exact).norm() / exact.norm())

    eager, fused = error(copy.deepcopy(net)), error(compiled(net))
    assert 0 < fused <= 1.05 * eager < 0.05, (fused, eager)
