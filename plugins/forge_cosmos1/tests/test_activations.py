"""What a block keeps for its gradients, counted while it runs, is what the options say and what each level promises."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from cosmos_forge.recompute import recompute_blocks
from forge_cosmos1.dit import VARIANTS, DiT
from forge_cosmos1.plugin import Video2WorldOptions

LATENT = (16, 2, 16, 16)
WIDTH, TOKENS = 128, 2 * 8 * 8


class Kept:
    """Bytes of the storages that autograd keeps within `block`, weights apart."""

    def __init__(self, net, block):
        self.inside, self.storages = False, {}
        self.weights = {each.untyped_storage().data_ptr() for each in net.parameters()}
        block.register_forward_pre_hook(lambda module, inputs: setattr(self, "inside", True))
        block.register_forward_hook(lambda module, inputs, output: setattr(self, "inside", False))

    def note(self, tensor):
        storage = tensor.untyped_storage()
        if self.inside and storage.data_ptr() not in self.weights:
            self.storages[storage.data_ptr()] = (storage.nbytes(), tensor)  # alive, so that no address comes twice
        return tensor

    @property
    def bytes(self):
        return sum(size for size, _ in self.storages.values())


def network(frozen):
    """In bfloat16; frozen but for the queries of its attentions, or not."""
    torch.manual_seed(0)
    net = DiT(VARIANTS["tiny"]).bfloat16()
    for name, parameter in net.named_parameters():
        nn.init.normal_(parameter, std=0.02)
        parameter.requires_grad_(not frozen or "to_q.0" in name)
    x = torch.randn(1, *LATENT).bfloat16()
    noise, text, fps, given = torch.tensor([0.1]).bfloat16(), torch.randn(1, 4, 64), torch.tensor([24.0]), x[:, :1]
    return net, (x, noise, text.bfloat16(), fps, given)


@pytest.mark.parametrize("frozen", [False, True])
def test_blocks_keep_what_the_options_say(frozen):
    net, inputs = network(frozen)
    kept = Kept(net, net.blocks["block1"])
    with torch.autograd.graph.saved_tensors_hooks(kept.note, lambda tensor: tensor):
        net(*inputs)
    said = Video2WorldOptions(variant="tiny").activations(LATENT, frozen).whole * 2
    assert 0.7 * said < kept.bytes <= said


def test_the_stream_is_the_tokens_times_their_width():
    said = Video2WorldOptions(variant="tiny").activations(LATENT, frozen=True)
    assert said.block == TOKENS * WIDTH
    said = Video2WorldOptions().activations((16, 16, 88, 160), frozen=True)
    assert said.block == 56_320 * 4096


@pytest.mark.parametrize("level", ["attention", "block"])
@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_are_those_of_keeping_everything(frozen, level):
    net, inputs = network(frozen)
    net(*inputs).float().square().mean().backward()
    expected = {name: each.grad for name, each in net.named_parameters() if each.grad is not None}
    net, inputs = network(frozen)
    names = set(net.state_dict())
    recompute_blocks(net, [f"blocks.{name}" for name in net.blocks], [level] * 2)
    net(*inputs).float().square().mean().backward()
    found = {name: each.grad for name, each in net.named_parameters() if each.grad is not None}
    assert set(net.state_dict()) == names
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


class Count(TorchDispatchMode):
    """Counts what is really computed, by operator."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.counts[str(function.overloadpacket).removeprefix("aten.")] += 1
        return function(*args, **(kwargs or {}))


def computed_again(level):
    """How many attentions and matrix products the backward pass of two blocks computes."""
    net, inputs = network(frozen=True)
    recompute_blocks(net, [f"blocks.{name}" for name in net.blocks], [level] * 2)
    loss = net(*inputs).float().square().mean()
    with Count() as computed:
        loss.backward()
    assert computed.counts["_scaled_dot_product_flash_attention_for_cpu_backward"] == 4
    return computed.counts["_scaled_dot_product_flash_attention_for_cpu"], computed.counts["mm"]


def test_what_each_level_computes_again():
    (nothing, least), (kept, some), (again, most) = map(computed_again, ("none", "attention", "block"))
    assert (nothing, kept, again) == (0, 0, 4)
    assert least < some <= most
