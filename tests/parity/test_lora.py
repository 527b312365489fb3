"""LoRA: outputs, gradients, a training step and checkpoints of the reference's adapters, under our method."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cosmos_forge.testing import make_context
from cosmos_forge.types import Batch, TextEmbedding
from forge_cosmos1.dit import VARIANTS, DiT
from forge_cosmos1.plugin import Video2WorldOptions
from forge_cosmos1.video2world import Draws, Network, Video2World
from forge_cosmos1.weights_files import open_weights
from forge_lora.lora import Lora, find_targets
from forge_lora.plugin import LoraOptions

TOLERANCE = 1e-5
LAYER = re.compile(r"(.*\.to_\w+)_lora\.net\.([01])\.weight")  # layer and matrix in a recorded name


def ours(recorded: str) -> str:
    """Our name of an adapter's matrix, from the recorded one."""
    layer, matrix = LAYER.fullmatch(recorded).groups()
    return f"{layer}.0.lora_{'AB'[int(matrix)]}.default.weight"


def adapters(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The recorded adapters' matrices by our names."""
    return {ours(name): value.float() for name, value in tensors.items() if LAYER.fullmatch(name)}


def base(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Everything else."""
    return {name: value for name, value in tensors.items() if not LAYER.fullmatch(name)}


def settings(record: Mapping[str, Any], names: Mapping[str, Tensor]) -> LoraOptions:
    """Options for the layers that have recorded matrices, with the rank and scale recorded for all or for each."""
    layers = sorted({name.split(".0.lora_")[0] for name in names})
    if every := record.get("lora_settings"):
        of = {f"{layer}.0": every[f"net.{layer}"] for layer in layers}
        return LoraOptions(
            targets=list(of),
            rank_pattern={layer: each["rank"] for layer, each in of.items()},
            alpha_pattern={layer: each["rank"] * each["scale"] for layer, each in of.items()},
        )
    each = record["config"].get("peft_control", record["config"])
    return LoraOptions(rank=each["rank"], alpha=each["scale"] * each["rank"], targets=[f"{name}.0" for name in layers])


def adapt(net: nn.Module, matrices: Mapping[str, Tensor], record: Mapping[str, Any]) -> dict[str, nn.Parameter]:
    """Adapts `net`, puts the recorded matrices in, and returns what trains."""
    lora = Lora(settings(record, matrices), make_context(Path()))
    lora.adapt(net)
    trainable = lora.trainable(net)
    assert set(trainable) == set(matrices), "other parameters train than recorded"
    for name, parameter in trainable.items():
        parameter.data.copy_(matrices[name])
    return trainable


def network(case: Any) -> tuple[DiT, dict[str, Tensor]]:
    """The base network of a case and its adapters' matrices."""
    tensors = {name.removeprefix("net."): value for name, value in case.part("weights/").items()}
    net = DiT(case.dit_config())
    net.load_state_dict({name: value for name, value in base(tensors).items() if not name.startswith("logvar.")})
    return net, adapters(tensors)


def arguments(case: Any) -> tuple[Tensor, ...]:
    given = case.part("in/")
    names = ("x", "timesteps", "crossattn_emb", "fps", "condition_video_input_mask", "padding_mask")
    return tuple(given[name] for name in names)


@pytest.mark.golden("g_lora/*")
def test_outputs_and_gradients(case: Any, check: Callable[..., None], tmp_path: Path) -> None:
    net, matrices = network(case)
    with torch.no_grad():
        check("output without adapters", net(*arguments(case)), case.tensors["out/base"], TOLERANCE)
    trainable = adapt(net, matrices, case.record)
    output = net(*arguments(case))
    check("output with adapters", output, case.tensors["out/lora"], TOLERANCE)
    (output - case.tensors["grad_target"]).square().mean().backward()
    recorded = adapters({name.removeprefix("net."): value for name, value in case.part("grad/").items()})
    assert set(recorded) == set(trainable)
    for name, value in recorded.items():
        check(f"gradient of {name}", trainable[name].grad, value, TOLERANCE, relative=True)


@pytest.mark.golden("a_forward/*")
@torch.no_grad()
def test_output(case: Any, check: Callable[..., None]) -> None:
    net, matrices = network(case)
    check("output without adapters", net(*arguments(case)), case.tensors["out/lora_off"], TOLERANCE)
    adapt(net, matrices, case.record)
    check("output with adapters", net(*arguments(case)), case.tensors["out/lora_on"], TOLERANCE)


@pytest.mark.golden("a_forward/*", "g_lora/*")
@torch.no_grad()
def test_merged(case: Any, check: Callable[..., None]) -> None:
    net, matrices = network(case)
    lora = Lora(settings(case.record, matrices), make_context(Path()))
    net.load_state_dict(lora.merge(net.state_dict(), lora.result(matrices).tensors))
    recorded = case.tensors["out/lora_on" if "lora_settings" in case.record else "out/lora"]
    check("output of the merged network", net(*arguments(case)), recorded, TOLERANCE)


@pytest.mark.golden("b_checkpoint/*")
@torch.no_grad()
def test_checkpoint(case: Any, check: Callable[..., None]) -> None:
    """What the reference trained, in bfloat16, with the regular and with the averaged adapters."""
    folder = case.path.with_suffix("")
    with torch.serialization.safe_globals([io.BytesIO]):
        file = torch.load(folder / "iter_000000010_model.pt", weights_only=True)
    tensors = {name: value for name, value in file["model"].items() if isinstance(value, Tensor)}
    tensors = {name.removeprefix("net."): value.float() for name, value in tensors.items() if name.startswith("net.")}
    net = DiT(case.dit_config())
    net.load_state_dict(base(tensors))
    check("base", net(*arguments(case)), case.tensors["out/training_net_lora_off"], TOLERANCE)
    trainable = adapt(net, adapters(tensors), case.record)
    check("adapted", net(*arguments(case)), case.tensors["out/training_net_regular_lora"], TOLERANCE)
    if file["ema"]:
        averaged = {name.replace("-", ".").removeprefix("net."): value for name, value in file["ema"].items()}
        for name, value in adapters(averaged).items():
            trainable[name].copy_(value.bfloat16())
        check("averaged", net(*arguments(case)), case.tensors["out/loaded"], TOLERANCE)


@pytest.mark.golden("b_checkpoint/*")
@torch.no_grad()
def test_goes_on_from_a_checkpoint(case: Any, check: Callable[..., None]) -> None:
    """Base and adapters come from the reference's own file; merged in, they change nothing where the scale is 0."""
    file = case.path.with_suffix("") / "iter_000000010_model.pt"
    setting = case.record["config"]["peft_control"]
    weights = open_weights(file, lora_scale=0).entries
    net = DiT(case.dit_config())
    net.load_state_dict({name[4:]: each.read().float() for name, each in weights.items() if name.startswith("net.")})
    check("base", net(*arguments(case)), case.tensors["out/training_net_lora_off"], TOLERANCE)
    options = LoraOptions(rank=setting["rank"], alpha=setting["scale"] * setting["rank"], start=str(file))
    whole = nn.Module()
    whole.net = net  # whose name the file puts before every tensor's
    said = Lora(options, make_context(Path())).adapt(whole)
    assert said.startswith("8 of 8 layers adapted") and said.endswith(f"going on from {file}")
    check("adapted", net(*arguments(case)), case.tensors["out/training_net_regular_lora"], TOLERANCE)


@pytest.mark.golden("c_train_step/*")
def test_train_step(case: Any, check: Callable[..., None], tmp_path: Path) -> None:
    """Loss, gradients, and the adapters after clipping and one step of AdamW."""
    config, tensors, weights = case.record["config"], case.tensors, case.part("weights/")
    model = Video2World(Video2WorldOptions(variant="tiny"), make_context(tmp_path))
    model.net = Network(case.dit_config())
    model.net.load_state_dict(base(weights))
    trainable = adapt(model.net, adapters(weights), case.record)

    text = TextEmbedding(tensors["batch/t5_text_embeddings"], tensors["batch/t5_text_mask"].bool())
    batch = Batch(tensors["in/tokenizer_latent"], text, tensors["batch/fps"])
    draws = Draws(
        keep_text_B=tensors["draw/text_keep"],
        given_B=torch.full_like(batch.fps_B, config["num_condition_t"]),
        sigma_B=tensors["in/sigma"],
        noise_BCTHW=tensors["draw/epsilon"],
        augment_sigma_B=torch.exp(-3 + 2 * torch.special.ndtri(tensors["draw/augment_cdf"].double())).float(),
        augment_noise_BCTHW=tensors["draw/augment_noise"],
    )
    loss = model.loss_of(batch, draws, tensors["batch/padding_mask"])
    check("loss", loss.total, case.record["scalars"]["loss"], TOLERANCE, relative=True)
    loss.total.backward()
    for name, value in adapters(case.part("grad/")).items():
        check(f"gradient of {name}", trainable[name].grad, value, TOLERANCE, relative=True)

    norm = nn.utils.clip_grad_norm_(trainable.values(), config["clip_norm"])
    check("norm of the gradient", norm, case.record["scalars"]["total_grad_norm"], TOLERANCE, relative=True)
    o = config["optimizer"]
    torch.optim.AdamW(
        trainable.values(), lr=o["lr"], betas=o["betas"], eps=o["eps"], weight_decay=o["weight_decay"]
    ).step()
    for name, value in adapters(case.part("after_step/")).items():
        check(f"{name} after a step", trainable[name], value, 1e-6)


@pytest.mark.golden("d_config/lora_7b_tensors")
def test_tensors_of_the_7b(case: Any, check: Callable[..., None]) -> None:
    """The defaults of our method adapt the layers that the reference's LoRA experiment adapts."""
    with torch.device("meta"):
        net = Network(VARIANTS["7b-video2world"])
    lora = Lora(LoraOptions(), make_context(Path()))
    said = lora.adapt(net)
    shapes = {name: list(parameter.shape) for name, parameter in lora.trainable(net).items()}
    assert shapes == {ours(name): shape for name, shape in case.record["shapes"].items()}
    assert said == f"112 of 112 layers adapted, {case.record['parameters']:,} parameters (224 tensors)"
    check("number of tensors", len(shapes), case.record["tensors"], 0)
    before = Video2WorldOptions().parameter_shapes()
    check("parameters told before", LoraOptions().trained(before), case.record["parameters"], 0)


# The reference's words for parts of a block and their layers, and where these are in the network.
PLACES = {"FA": "blocks.0.block.attn.{}.0", "CA": "blocks.1.block.attn.{}.0", "MLP": "blocks.2.block.{}"}
LAYERS = {"l1": "layer1", "l2": "layer2"}


@pytest.mark.golden("d_config/peft_control_cases")
def test_layers_that_a_setting_selects(case: Any, check: Callable[..., None]) -> None:
    """What the reference's configuration language selects in blocks, our options select, with that rank and scale."""
    with torch.device("meta"):
        net = Network(VARIANTS["7b-video2world"])
    linear = {name for name, module in net.named_modules() if isinstance(module, nn.Linear)}
    for name, each in case.record["cases"].items():
        selected = {
            f"block{block}.{PLACES[part].format(LAYERS.get(layer, layer))}": setting
            for block, parts in (each.get("parsed") or {}).items()
            if block.isdecimal()
            for part, layers in parts.items()
            if part in PLACES
            for layer, setting in layers.items()
            if layer != "customization_type"
        }
        if not selected:
            continue
        options = LoraOptions(
            targets=list(selected),
            rank_pattern={layer: setting["lora_rank"] for layer, setting in selected.items()},
            alpha_pattern={layer: s["lora_rank"] * s["lora_scale"] for layer, s in selected.items()},
        )
        found = find_targets(net, options)
        assert set(found) == {f"net.blocks.{layer}" for layer in selected} <= linear
        for layer in found:
            setting = selected[layer.removeprefix("net.blocks.")]
            check(f"{name}: rank of {layer}", options.rank_of(layer), setting["lora_rank"], 0)
            check(f"{name}: scale of {layer}", options.scale_of(layer), setting["lora_scale"], 1e-12)
