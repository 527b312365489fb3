"""The method `lora` against its contract, and against peft itself."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file

from cosmos_forge import ForgeError, Problem
from cosmos_forge.options import build_options
from cosmos_forge.testing import MethodContract, TinyNet, make_context
from forge_lora.lora import Lora, find_targets
from forge_lora.plugin import LoraOptions

TARGETS = ["to_q", "to_v"]


class TestLora(MethodContract):
    use = "lora"
    options = {"rank": 3, "alpha": 6, "targets": TARGETS}
    misfit = {"rank": 3, "targets": ["to_q", "to_w"]}


class TestDora(MethodContract):
    use = "lora"
    options = {"rank": 3, "alpha": 6, "targets": TARGETS, "dora": True}
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
    assert LoraOptions(rank=16).scale_of("to_q") == 1
    assert LoraOptions(rank=8, alpha=16).scale_of("to_q") == 2


def test_says_what_it_adapted(tmp_path):
    """Four layers of 10 x 7, each with rank * (in + out) parameters."""
    assert method(tmp_path).adapt(TinyNet()) == "4 of 4 layers adapted, 204 parameters (8 tensors)"


@pytest.mark.parametrize(
    "options",
    [{}, {"dora": True}, {"rank_pattern": {"1.to_q": 5}}, {"rank": 2, "targets": ["blocks.1.to_(q|out)", "head"]}],
)
def test_tells_before_how_much_trains(tmp_path, options):
    lora, net = adapted(tmp_path, **options)
    shapes = {name: parameter.shape for name, parameter in TinyNet().named_parameters()}
    assert lora.options.trained(shapes) == sum(value.numel() for value in lora.trainable(net).values())


def test_dora_trains_a_length_for_each_row(tmp_path):
    """Seven rows more in each of the four layers; they begin as the rows' lengths, in float32 beside any dtype."""
    net = TinyNet().bfloat16()
    lora = method(tmp_path, dora=True)
    assert lora.adapt(net) == "4 of 4 layers adapted, 232 parameters (12 tensors)"
    magnitude = lora.trainable(net)["blocks.0.to_q.lora_magnitude_vector.default.weight"]
    torch.testing.assert_close(magnitude, TinyNet().bfloat16().blocks[0].to_q.weight.float().norm(dim=1))


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


def published(tmp_path, **options):
    """An adapted network with random adapters; what is published of them lies in `tmp_path`."""
    lora, net = adapted(tmp_path, **options)
    generator = torch.Generator().manual_seed(4)
    for value in lora.trainable(net).values():
        value.data = torch.randn(value.shape, generator=generator)
    result = lora.result(lora.trainable(net))
    save_file(result.tensors, tmp_path / f"{result.name}.safetensors")
    for name, text in result.texts.items():
        (tmp_path / name).write_text(text)
    return net, result


PATTERNS = {"rank_pattern": {"1.to_q": 5, "to_q": 2}, "alpha_pattern": {"0.to_v": 4.5}}


def test_layers_with_ranks_and_scales_of_their_own(tmp_path):
    """The first pattern that fits a layer counts; alpha follows the rank where nobody says it."""
    options = LoraOptions(rank=3, targets=TARGETS, **PATTERNS)
    layers = [f"blocks.{block}.to_{x}" for block in (0, 1) for x in "qv"]
    assert [options.rank_of(layer) for layer in layers] == [2, 3, 5, 3]
    assert [options.scale_of(layer) for layer in layers] == [1, 1.5, 1, 1]
    assert LoraOptions(rank=4, alpha=8, rank_pattern={"to_q": 16}).scale_of("to_q") == 0.5  # as in peft
    before, _ = published(tmp_path, **PATTERNS)
    lora, net = adapted(tmp_path, start=str(tmp_path), **PATTERNS)
    assert lora.trainable(net)["blocks.1.to_q.lora_A.default.weight"].shape == (5, 10)
    x_BLD = torch.randn(2, 5, 6)
    assert torch.equal(net(x_BLD), before(x_BLD))
    with pytest.raises(ForgeError, match="rank_pattern: no adapted layer's name ends with `to_out`"):
        method(tmp_path, rank_pattern={"to_out": 2}).adapt(TinyNet())
    with pytest.raises(ForgeError) as raised:
        method(tmp_path, start=str(tmp_path)).adapt(TinyNet())
    assert [problem.fix for problem in raised.value.problems] == [
        'rank_pattern = { "blocks.0.to_q" = 2, .. }',
        'alpha_pattern = { "blocks.0.to_v" = 4.5, .. }',
    ]


@pytest.mark.parametrize(
    "options", [{}, {"dora": True}, {"alpha": 1.5}, {"alpha": 1.5, "dora": True}, PATTERNS, {"alpha": 1.5, **PATTERNS}]
)
def test_peft_loads_the_result(tmp_path, options):
    """The folder we publish, read by peft into a plain network, gives the adapted network's outputs."""
    net, result = published(tmp_path, **options)
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


def test_targets_may_be_patterns():
    find = lambda *targets: find_targets(TinyNet(), LoraOptions(rank=3, targets=targets))  # noqa: E731
    assert find("to_[qv]") == [f"blocks.{block}.to_{x}" for block in (0, 1) for x in "qv"]
    assert find("blocks.1..*") == [f"blocks.1.to_{x}" for x in ("q", "v", "out")]
    assert find("head|embed") == ["embed", "head"]
    options, faults = build_options(LoraOptions, {"targets": ["to_(q"]})
    assert options is None and "`to_(q` is no regular expression" in faults[0].what


def test_dropout_in_training_alone(tmp_path):
    """A share of an adapter's inputs is left out, the others grow by as much; generating leaves out none."""
    net, _ = published(tmp_path, dropout=0.5)
    plain, _ = published(tmp_path)
    x_BLD = torch.randn(2, 5, 6)
    torch.manual_seed(0)
    assert not torch.equal(net(x_BLD), net(x_BLD))
    torch.testing.assert_close(net.eval()(x_BLD), plain(x_BLD))


@pytest.mark.parametrize("dora", [False, True])
def test_goes_on_from_adapters(tmp_path, dora):
    """What was published is where training starts again, with the outputs it had."""
    before, _ = published(tmp_path, alpha=6.0, dora=dora)
    lora, net = adapted(tmp_path, alpha=6.0, dora=dora, start=str(tmp_path), seed=3)
    for name, value in lora.trainable(net).items():
        assert torch.equal(value, before.get_parameter(name)), name
    x_BLD = torch.randn(2, 5, 6)
    assert torch.equal(net(x_BLD), before(x_BLD))
    (tmp_path / "model.safetensors").touch()  # what `run:NAME` names, beside the adapters
    again = {"alpha": 6.0, "dora": dora, "start": str(tmp_path / "model.safetensors")}
    said = method(tmp_path, **again).adapt(TinyNet())
    assert f"going on from {tmp_path}" in said and "tell its scale" not in said
    (tmp_path / "adapter_config.json").unlink()
    assert "scaled as set here, since the file does not tell its scale" in method(tmp_path, **again).adapt(TinyNet())


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"rank": 2, "alpha": 2}, "has rank 3, not 2, at `blocks.0.to_q`, one of 4"),
        ({"alpha": 6}, "has a scale of 1, not 2"),
        ({"targets": ["to_q"]}, "has adapters of other layers too: blocks.0.to_v, blocks.1.to_v"),
        ({"targets": ["to_q", "to_v", "to_out"]}, "has no adapter of `blocks.0.to_out`, one of 2"),
        ({"dora": True}, "was trained without DoRA"),
    ],
)
def test_other_adapters_are_refused(tmp_path, options, what):
    published(tmp_path)
    with pytest.raises(ForgeError) as raised:
        method(tmp_path, start=str(tmp_path), **options).adapt(TinyNet())
    assert what in raised.value.problems[0].what and raised.value.problems[-1].fix


def test_files_without_adapters_are_refused(tmp_path):
    save_file(TinyNet().state_dict(), tmp_path / "other.safetensors")
    torch.save(TinyNet().state_dict(), tmp_path / "plain.pt")
    torch.save({"model": Path("/")}, tmp_path / "odd.pt")
    for name, what in {
        "": "no adapters at",
        "other.safetensors": "holds no adapters",
        "plain.pt": "holds no adapters",
        "odd.pt": "cannot be read",
    }.items():
        with pytest.raises(ForgeError, match=what):
            method(tmp_path, start=str(tmp_path / name)).adapt(TinyNet())


def test_rank_must_fit_the_layer(tmp_path):
    with pytest.raises(ForgeError, match=r"rank 8 is more than `blocks.0.to_q` has, 7"):
        method(tmp_path, rank=8).adapt(TinyNet())


def test_what_does_not_fit_is_told_before_a_run_where_the_model_tells_its_shapes():
    """In the same words as later, under the key that is wrong; layers that are too narrow in one line."""

    class Plan:
        tables: ClassVar = {"model": None}

        def options(self, table):
            shapes = {name: tuple(value.shape) for name, value in TinyNet().named_parameters()}
            return SimpleNamespace(parameter_shapes=lambda: shapes)

        def problem(self, table, key, what, fix):
            return Problem(f"{table}.{key}: {what}", fix=fix)

    options = {"rank": 8, "targets": ["to_q", "to_w"], "alpha_pattern": {"to_v": 2}}
    found = [problem.what for problem in LoraOptions(**options).check(Plan())]
    assert found == [
        "method.targets: targets: no linear layer's name ends with `to_w`",
        "method.alpha_pattern: alpha_pattern: no adapted layer's name ends with `to_v`",
        "method.rank: rank 8 is more than `blocks.0.to_q` has, 7; 2 of 2 layers are too narrow",
    ]
    with pytest.raises(ForgeError) as raised:
        find_targets(TinyNet(), LoraOptions(**options))
    assert [f"[method] {what.split(': ', 1)[1]}" for what in found] == [each.what for each in raised.value.problems]


def test_merging_into_another_network(tmp_path):
    lora, net = adapted(tmp_path)
    with pytest.raises(ForgeError, match=r"blocks\.1\.to_q\.weight"):
        lora.merge(TinyNet(count=1).state_dict(), lora.result(lora.trainable(net)).tensors)


def merged_from(path, tmp_path):
    """A plain network's weights with the adapters behind a path merged in, as options nobody set would."""
    lora, base = method(tmp_path, rank=LoraOptions().rank), TinyNet().state_dict()
    return lora.merge(base, lora.read(path, str))


@pytest.mark.parametrize("options", [{}, {"dora": True}, {"alpha": 1.5}, PATTERNS])
def test_reads_files_with_scales_of_their_own(tmp_path, options):
    """Whatever the file was trained with, its adapters are read so that they add what they added."""
    net, _ = published(tmp_path, **options)
    found = TinyNet()
    found.load_state_dict(merged_from(tmp_path, tmp_path))
    x_BLD = (
        torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0)) / 10
    )  # rounding grows with its fourth power
    torch.testing.assert_close(found(x_BLD), net(x_BLD), atol=1e-4, rtol=1e-4)


def test_reads_rank_stabilised_scales(tmp_path):
    """alpha / sqrt(rank), as peft computes with `use_rslora`."""
    published(tmp_path, alpha=1.5)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "use_rslora": True}))
    loaded = PeftModel.from_pretrained(TinyNet(), str(tmp_path)).merge_and_unload()
    found = merged_from(tmp_path, tmp_path)
    for name, value in loaded.state_dict().items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-6)


def test_looks_like_adapters(tmp_path):
    published(tmp_path)
    save_file(TinyNet().state_dict(), tmp_path / "plain.safetensors")
    torch.save({"model": {"a.to_q_lora.net.0.weight": torch.zeros(2)}}, tmp_path / "theirs.pt")
    torch.save({"model": {"a.to_q.0.weight": torch.zeros(2)}}, tmp_path / "plain.pt")
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 40)
    (tmp_path / "broken.pt").write_bytes(b"not a zip")
    (tmp_path / "empty").mkdir()
    looks = {name: LoraOptions.reads(tmp_path / name) for name in [".", *sorted(os.listdir(tmp_path))]}
    assert {name for name, adapters in looks.items() if adapters} == {".", "adapter_model.safetensors", "theirs.pt"}


def test_keys_that_fit_nothing_are_listed(tmp_path):
    _, result = published(tmp_path)
    save_file({**result.tensors, "x.bias": torch.zeros(2)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ForgeError, match=r"1 of 9 tensors are no part of an adapter: x\.bias"):
        method(tmp_path).read(tmp_path, str)
    half = {name: value for name, value in result.tensors.items() if "lora_A" in name or "blocks.0" in name}
    save_file(half, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ForgeError, match=r"half an adapter: blocks\.1\.to_q, blocks\.1\.to_v"):
        method(tmp_path).read(tmp_path, str)
    lora = method(tmp_path)
    narrow = {name: value[:, :4] if "lora_A" in name else value for name, value in result.tensors.items()}
    with pytest.raises(ForgeError, match=r"is of a layer of \[7, 4\], the network's is \[7, 10\]"):
        lora.merge(TinyNet().state_dict(), narrow)
