"""Counted operations are those that torch counts while the network runs."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cosmos_forge.testing import make_context
from cosmos_forge.testing.fakes import build
from cosmos_forge.types import Batch, TextEmbedding
from forge_cosmos1.plugin import Video2WorldOptions

LATENT, TEXT = (16, 3, 32, 24), 40


def counted(tmp_path, trainable, backward):
    """Of the tiny network's loss on a sample, as torch counts; attention written out, so that it is counted too."""
    model = build("model", "cosmos1-video2world", {"variant": "tiny"}, make_context(tmp_path))
    model.load()
    for name, parameter in model.net.named_parameters():
        parameter.requires_grad_(trainable in name)
    batch = Batch(
        torch.randn(1, *LATENT), TextEmbedding(torch.randn(1, TEXT, 64), torch.ones(1, TEXT).bool()), torch.ones(1)
    )
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss = model.loss(batch, [torch.Generator().manual_seed(0)]).total
        if backward:
            loss.backward()
    return counter.get_total_flops()


def test_a_forward_pass(tmp_path):
    said = Video2WorldOptions(variant="tiny").flops(LATENT, TEXT)
    assert said == pytest.approx(counted(tmp_path, "", backward=False), rel=1e-4)


def test_a_training_step_of_all_weights(tmp_path):
    """Inputs need no gradients, which saves a little."""
    said = Video2WorldOptions(variant="tiny").flops(LATENT, TEXT, frozen=False)
    found = counted(tmp_path, "", backward=True)
    assert found <= said < 1.05 * found


def test_a_training_step_of_a_frozen_base(tmp_path):
    """What trains is nearly nothing, at the very beginning."""
    said = Video2WorldOptions(variant="tiny").flops(LATENT, TEXT, frozen=True)
    found = counted(tmp_path, "x_embedder", backward=True)
    assert said == pytest.approx(found, rel=0.05)


def test_the_7b_networks_are_those_of_its_size():
    """2 a parameter and token in linear layers, 4 a pair of tokens and number in attention, to a few in a hundred."""
    tokens, width, blocks = 56_320, 4096, 28
    rough = 2 * 6.6e9 * tokens + 4 * tokens**2 * width * blocks
    assert Video2WorldOptions().flops((16, 16, 88, 160), 512) == pytest.approx(rough, rel=0.03)
    assert Video2WorldOptions().tokens((16, 16, 88, 160)) == tokens
