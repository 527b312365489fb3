"""The method `lora` against its contract, and against peft itself."""

import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file

from cosmos_forge import ForgeError
from cosmos_forge.testing import MethodContract, TinyNet, make_context
from forge_lora.lora import Lora
from forge_lora.plugin import LoraOptions

TARGETS = ["to_q", "to_v"]


class TestLora(MethodContract):
    use = "lora"
    options = {"rank": 3, "alpha": 6, "targets": TARGETS}
    misfit = {"rank": 3, "targets": ["to_q", "to_w"]}


def method(tmp_path, **options):
    seed = options.pop("seed", 0)
    return Lora(LoraOptions(**{"rank": 3, "targets": TARGETS, **options}), make_context(tmp_path, seed=seed))


def adapted(tmp_path, **options):
    net = TinyNet()
    lora = method(tmp_path, **options)
    lora.adapt(net)
    return lora, net


def test_default_scale_is_one():
    assert LoraOptions(rank=16).scale == 1
    assert LoraOptions(rank=8, alpha=16).scale == 2


def test_says_what_it_adapted(tmp_path):
    """Four layers of 10 x 7, each with rank * (in + out) parameters."""
    assert method(tmp_path).adapt(TinyNet()) == "4 of 4 layers adapted, 204 parameters"


def test_beginning(tmp_path):
    """up is zero; down has the deviation 1/rank, follows the seed, and differs between layers."""
    lora, net = adapted(tmp_path, rank=7)
    downs = [value for name, value in lora.trainable(net).items() if "lora_A" in name]
    ups = [value for name, value in lora.trainable(net).items() if "lora_B" in name]
    assert len(downs) == len(ups) == 4 and not any(up.any() for up in ups)
    assert torch.cat([down.flatten() for down in downs]).std().item() == pytest.approx(1 / 7, rel=0.15)
    assert not torch.equal(downs[0], downs[1])
    other, again = (adapted(tmp_path, rank=7, seed=seed) for seed in (1, 0))
    name = "blocks.0.to_q.lora_A.default.weight"
    assert not torch.equal(downs[0], other[0].trainable(other[1])[name])
    assert torch.equal(downs[0], again[0].trainable(again[1])[name])


def test_beside_bfloat16_adapters_are_float32(tmp_path):
    net = TinyNet().bfloat16()
    lora = method(tmp_path)
    lora.adapt(net)
    assert {value.dtype for value in lora.trainable(net).values()} == {torch.float32}
    assert net.blocks[0].to_q.base_layer.weight.dtype == torch.bfloat16
    net(torch.randn(2, 5, 6)).float().sum().backward()
    assert {value.grad.dtype for value in lora.trainable(net).values()} == {torch.float32}


@pytest.mark.parametrize("alpha", [None, 1.5])
def test_peft_loads_the_result(tmp_path, alpha):
    """The folder we publish, read by peft into a plain network, gives the adapted network's outputs."""
    lora, net = adapted(tmp_path, alpha=alpha)
    generator = torch.Generator().manual_seed(4)
    for value in lora.trainable(net).values():
        value.data = torch.randn(value.shape, generator=generator)
    result = lora.result(lora.trainable(net))
    save_file(result.tensors, tmp_path / f"{result.name}.safetensors")
    for name, text in result.texts.items():
        (tmp_path / name).write_text(text)
    loaded = PeftModel.from_pretrained(TinyNet(), str(tmp_path))
    x_BLD = torch.randn(2, 5, 6)
    torch.testing.assert_close(loaded(x_BLD), net(x_BLD), atol=1e-6, rtol=1e-6)
    assert (loaded(x_BLD) - TinyNet()(x_BLD)).abs().max() > 0.1
    assert "base_model.model.blocks.0.to_q.lora_A.weight" in result.tensors
    assert json.loads(result.texts["adapter_config.json"])["r"] == 3


def test_every_target_must_match(tmp_path):
    """All faults at once, with the nearest layers that there are; the network is left as it was."""
    net = TinyNet()
    with pytest.raises(ForgeError) as raised:
        method(tmp_path, targets=["to_q", "to_w", "blocks.0.too_v"]).adapt(net)
    first, second = raised.value.problems
    assert "ends with `to_w`" in first.what and "`to_v`" in first.fix
    assert "ends with `blocks.0.too_v`" in second.what and "`blocks.0.to_v`" in second.fix
    assert set(net.state_dict()) == set(TinyNet().state_dict())


def test_targets_end_at_a_dot(tmp_path):
    with pytest.raises(ForgeError, match="ends with `o_q`"):
        method(tmp_path, targets=["o_q"]).adapt(TinyNet())


def test_rank_must_fit_the_layer(tmp_path):
    with pytest.raises(ForgeError, match=r"rank 8 is more than `blocks.0.to_q` has, 7"):
        method(tmp_path, rank=8).adapt(TinyNet())


def test_merging_into_another_network(tmp_path):
    lora, net = adapted(tmp_path)
    with pytest.raises(ForgeError, match=r"blocks\.1\.to_q\.weight"):
        lora.merge(TinyNet(count=1).state_dict(), lora.result(lora.trainable(net)).tensors)
