"""`forge convert`: what it writes is read by torch, safetensors and diffusers, and gives the same results."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from cosmos_forge import ForgeError, cli
from cosmos_forge.testing import make_context
from forge_cosmos1 import weights, weights_convert, weights_diffusers
from forge_cosmos1.tokenizer_network import Autoencoder
from forge_cosmos1.tokenizer_weights import from_diffusers, to_diffusers
from forge_cosmos1.variants import VARIANTS
from forge_cosmos1.video2world import Network
from forge_cosmos1.weights_convert import Source, convert_weights, variant_of
from forge_cosmos1.weights_files import Entry, Weights
from forge_cosmos1.weights_names import from_diffusers as network_from_diffusers
from forge_cosmos1.weights_names import to_diffusers as network_to_diffusers
from forge_cosmos1.weights_write import write_weights

CPU = torch.device("cpu")
LAYER = "net.blocks.block1.blocks.0.block.attn.to_v"


def network() -> Network:
    with torch.device("meta"):
        return Network(VARIANTS["tiny"])


@pytest.fixture(scope="module")
def net() -> Network:
    """Random in every tensor, so that nothing hides."""
    net = network()
    weights.initialise(net, 5, CPU, torch.float32)
    generator = torch.Generator().manual_seed(6)
    for parameter in net.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    return net.requires_grad_(False)


@pytest.fixture
def state(net: Network) -> dict[str, Tensor]:
    return dict(net.state_dict())


@pytest.fixture
def source(tmp_path: Path, state: dict[str, Tensor]) -> Source:
    """In bfloat16, but for what is float32 in every file."""
    torch.save(
        {name: value.bfloat16() if "net." in name else value for name, value in state.items()}, tmp_path / "w.pt"
    )
    return Source(tmp_path / "w.pt")


def loaded(path: Path) -> dict[str, Tensor]:
    """Through our own loader."""
    net = network()
    weights.load(net, path, CPU, torch.float32)
    return dict(net.state_dict())


@pytest.fixture
def forge(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs `forge convert ...`; returns exit code, stdout, stderr."""

    def forge(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["forge", "convert", *map(str, arguments)])
        with pytest.raises(SystemExit) as ending:
            cli.main()
        return int(ending.value.code or 0), *capsys.readouterr()

    return forge


@pytest.mark.parametrize("name", ["one.safetensors", "folder"])
def test_safetensors(name: str, source: Source, tmp_path: Path) -> None:
    said = convert_weights(source, tmp_path / name, "safetensors")
    assert said[0] == f"tiny: 51 of 51 tensors of the network read from {source.path}"
    file = tmp_path / name if "." in name else tmp_path / name / "model.safetensors"
    found, expected = load_file(file), torch.load(source.path, weights_only=True)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value) and found[key].dtype == value.dtype, key
    with safe_open(file, "pt") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_predict1_is_the_flat_dict_of_the_reference(source: Source, tmp_path: Path) -> None:
    convert_weights(source, tmp_path / "there.safetensors", "safetensors")
    for name, file in (("back.pt", "back.pt"), ("folder", "folder/model.pt")):
        convert_weights(Source(tmp_path / "there.safetensors"), tmp_path / name, "predict1")
        found, expected = (torch.load(path, weights_only=True) for path in (tmp_path / file, source.path))
        assert list(found) == list(expected)
        assert all(torch.equal(found[key], value) for key, value in expected.items())
        assert {value.dtype for value in found.values()} == {torch.bfloat16, torch.float32}


def test_large_weights_are_spread(state: dict[str, Tensor], tmp_path: Path) -> None:
    entries = {name: Entry(tuple(value.shape), value.dtype, value.clone) for name, value in state.items()}
    seen: list[None] = []
    write_weights(tmp_path, "model", entries, lambda: seen.append(None), shard=600_000)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(seen) == len(state)
    assert [file.name for file in files] == [
        f"model-{i:05}-of-{len(files):05}.safetensors" for i in range(1, 1 + len(files))
    ]
    assert len(files) > 4 and all(file.stat().st_size < 620_000 for file in files)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in state.values())
    found = {name: load_file(tmp_path / file)[name] for name, file in index["weight_map"].items()}
    assert all(torch.equal(found[name], value) for name, value in state.items())
    assert all(torch.equal(value, state[name]) for name, value in loaded(tmp_path).items())


def test_averages_and_adapters(state: dict[str, Tensor], tmp_path: Path, forge: Callable[..., Any]) -> None:
    adapters = {f"{LAYER}_lora.net.0.weight": torch.randn(2, 128), f"{LAYER}_lora.net.1.weight": torch.randn(128, 2)}
    average = {name.replace(".", "-"): value + 1 for name, value in adapters.items()}
    torch.save({"model": state | adapters, "ema": average}, tmp_path / "w.pt")
    down, up = adapters.values()
    for kept, change in (("regular", up @ down), ("ema", (up + 1) @ (down + 1))):
        target = tmp_path / f"{kept}.safetensors"
        code, out, err = forge(tmp_path / "w.pt", target, "--to", "safetensors", "--weights", kept, "--lora-scale", "2")
        assert (code, err) == (0, "")
        assert "51 of 51 tensors" in out and "layers with adapters merged in: 1, at scale 2" in out
        torch.testing.assert_close(load_file(target)[f"{LAYER}.0.weight"], state[f"{LAYER}.0.weight"] + 2 * change)
        assert load_file(target).keys() == state.keys()


def test_mistakes_end_with_2_and_leave_nothing(
    state: dict[str, Tensor], tmp_path: Path, forge: Callable[..., Any]
) -> None:
    del state["net.affline_norm.weight"]
    save_file(state, tmp_path / "w.safetensors")
    wanted = (tmp_path / "w.safetensors", tmp_path / "new", "--to", "predict1")
    code, out, err = forge(*wanted)
    assert (code, out) == (2, "") and "1 missing: net.affline_norm.weight" in err
    assert forge(*wanted, "--allow-missing", "net.affline*")[0] == 0
    code, _, err = forge(*wanted, "--allow-missing", "net.affline*")
    assert (code, err.splitlines()[0]) == (2, f"error: {tmp_path / 'new'} exists")
    assert forge(tmp_path / "w.safetensors", tmp_path / "other", "--to", "gguf")[0] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "w.safetensors"]


def test_weights_of_another_network(tmp_path: Path) -> None:
    save_file({"net.x_embedder.proj.1.weight": torch.zeros(48, 72)}, tmp_path / "w.safetensors")
    with pytest.raises(ForgeError, match=r"no network known here: .*\[48, 72\]\n.*7b-video2world \[4096, 72\]"):
        convert_weights(Source(tmp_path / "w.safetensors"), tmp_path / "new", "safetensors")


@pytest.mark.parametrize("variant", VARIANTS)
def test_networks_are_told_apart(variant: str) -> None:
    with torch.device("meta"):
        state = Network(VARIANTS[variant]).state_dict()
    entries = {name: Entry(tuple(value.shape), value.dtype, value.clone) for name, value in state.items()}
    assert variant_of(Weights(Path("w.pt"), entries)) == variant


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("unexpected pos")])
def test_a_disk_that_fills_up(error: Exception, source: Source, tmp_path: Path, monkeypatch: Any) -> None:
    def write(folder: Path, *_: object) -> None:
        (folder / "part").write_text("some")
        raise error

    monkeypatch.setattr(weights_convert, "write_weights", write)
    with pytest.raises(ForgeError, match=rf"could not be written: .*{error.args[-1]}"):
        convert_weights(source, tmp_path / "new", "safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["w.pt"]


def test_a_full_disk(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    with pytest.raises(ForgeError, match=r"it needs 1\.5 MB, and 1\.0 MB are free"):
        convert_weights(source, tmp_path / "new", "safetensors")


def test_names_in_diffusers(diffusers: Any) -> None:
    """Each name has one there and comes back; both networks at published size."""
    network, autoencoder = diffusers.CosmosTransformer3DModel, diffusers.AutoencoderKLCosmos  # not imported as meta
    with torch.device("meta"):
        theirs, vae = network(in_channels=17), autoencoder()
        ours, tokenizer = Network(VARIANTS["7b-video2world"]), Autoencoder()
    named = {name: network_to_diffusers(name) for name in ours.state_dict()}
    assert {name for name in named.values() if name} == set(theirs.state_dict())
    assert all(network_from_diffusers(there) == name for name, there in named.items() if there)
    assert to_diffusers(tokenizer.state_dict()).keys() == vae.state_dict().keys()
    assert from_diffusers(vae.state_dict()).keys() == tokenizer.state_dict().keys()


@pytest.fixture
def diffusers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package; where torchvision is missing, with a stand-in for the one function of it that is needed."""
    diffusers = pytest.importorskip("diffusers")
    from diffusers.models.transformers import transformer_cosmos

    if not hasattr(transformer_cosmos, "transforms"):
        stand_in = SimpleNamespace(
            functional=SimpleNamespace(resize=lambda mask, size, interpolation: F.interpolate(mask, size)),
            InterpolationMode=SimpleNamespace(NEAREST=None),
        )
        monkeypatch.setattr(transformer_cosmos, "transforms", stand_in, raising=False)
    return diffusers


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow one, random."""
    folder = tmp_path_factory.mktemp("tokenizer")
    torch.manual_seed(4)
    save_file(Autoencoder(4).state_dict(), folder / "w.safetensors")
    torch.save((torch.linspace(-0.2, 0.2, 256), torch.linspace(0.5, 1.5, 256)), folder / "mean_std.pt")
    return folder


class Permissive:
    """Stands where the guardrails do, which are another download, and refuses nothing."""

    def to(self, device: object) -> None: ...

    def check_text_safety(self, prompt: str) -> bool:
        return True

    def check_video_safety(self, frames: Any) -> Any:
        return frames


@torch.no_grad()
def test_pipeline_of_diffusers(
    diffusers: Any, net: Network, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their pipeline gives the same video with its own networks, loaded from the folder, and with ours inside."""
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    folder = tmp_path / "pipeline"
    said = convert_weights(Source(tmp_path / "w.safetensors"), folder, "diffusers", tokenizer)
    assert said[2] == "not in the folder, so hand them to from_pretrained: text_encoder, tokenizer, safety_checker"
    load = diffusers.CosmosVideoToWorldPipeline.from_pretrained
    pipeline = load(folder, text_encoder=None, tokenizer=None, safety_checker=Permissive())
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.scheduler.config.final_sigmas_type == "sigma_min"

    generator = torch.Generator().manual_seed(1)
    prompt, negative = torch.randn(2, 1, 7, 64, generator=generator)
    clip = torch.rand(9, 3, 32, 48, generator=generator)

    def run(output: str) -> Tensor:
        made = pipeline(
            video=list(clip), prompt_embeds=prompt, negative_prompt_embeds=negative, height=32, width=48, num_frames=17,
            num_inference_steps=4, guidance_scale=3.0, fps=24, output_type=output,
            generator=torch.Generator().manual_seed(2),
        )  # fmt: skip
        return torch.as_tensor(made.frames)

    theirs, latents = run("pt"), run("latent")
    assert theirs.shape == (1, 17, 3, 32, 48) and theirs.std() > 0.05

    calls: list[None] = []
    autoencoder = Autoencoder(4)
    autoencoder.load_state_dict(load_file(tokenizer / "w.safetensors"))

    def forward(hidden_states, timestep, encoder_hidden_states, fps, condition_mask, padding_mask, **_):
        calls.append(None)
        fps_B = torch.full((len(hidden_states),), float(fps))
        return (net(hidden_states, timestep, encoder_hidden_states, fps_B, condition_mask, padding_mask)[0],)

    monkeypatch.setattr(pipeline.transformer, "forward", forward)
    monkeypatch.setattr(pipeline.vae, "_decode", lambda z, **_: SimpleNamespace(sample=autoencoder.decode(z)))
    monkeypatch.setattr(pipeline.vae, "_encode", autoencoder.encode)
    torch.testing.assert_close(run("latent"), latents, atol=1e-4, rtol=0)
    torch.testing.assert_close(run("pt"), theirs, atol=1.01 / 255, rtol=0)  # they round to 256 levels
    assert len(calls) == 2 * 4 * 2


@pytest.fixture(scope="module")
def text_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like google-t5/t5-11b's: encoder and decoder in one .bin, and a tokenizer."""
    from tokenizers import SentencePieceUnigramTokenizer
    from transformers import T5Config, T5ForConditionalGeneration, T5TokenizerFast

    folder = tmp_path_factory.mktemp("t5")
    words = SentencePieceUnigramTokenizer()
    special = ["<pad>", "</s>", "<unk>"]
    words.train_from_iterator(
        ["a red ball rolls"] * 9, vocab_size=30, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    words.save(str(folder / "tokenizer.json"))
    T5TokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), extra_ids=0).save_pretrained(folder)
    config = T5Config(vocab_size=32, d_model=64, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    (folder / "config.json").write_text(config.to_json_string())
    torch.save(T5ForConditionalGeneration(config).state_dict(), folder / "pytorch_model.bin")
    (folder / "tf_model.h5").write_text("not needed")
    return folder


@torch.no_grad()
def test_whole_pipeline_of_diffusers(
    diffusers: Any, source: Source, tokenizer: Path, text_encoder: Path, tmp_path: Path
) -> None:
    """From a prompt; only the guardrails come from elsewhere."""
    said = convert_weights(source, tmp_path / "new", "diffusers", tokenizer, text_encoder)
    assert said[2] == "not in the folder, so hand them to from_pretrained: safety_checker"
    assert not list(tmp_path.rglob("new/*/*.h5"))
    pipeline = diffusers.CosmosVideoToWorldPipeline.from_pretrained(tmp_path / "new", safety_checker=Permissive())
    pipeline.set_progress_bar_config(disable=True)
    clip = list(torch.rand(9, 3, 16, 16, generator=torch.Generator().manual_seed(1)))
    videos = [
        pipeline(
            video=clip, prompt=prompt, negative_prompt="", height=16, width=16, num_frames=17, num_inference_steps=2,
            output_type="latent", generator=torch.Generator().manual_seed(2),
        ).frames
        for prompt in ("a red ball", "rolls")
    ]  # fmt: skip
    assert videos[0].shape == (1, 16, 3, 2, 2) and not torch.equal(*videos)
    with pytest.raises(ForgeError, match="holds none of tokenizer_config"):
        convert_weights(source, tmp_path / "other", "diffusers", tokenizer, text_encoder=tmp_path)


def test_spread_transformer_of_diffusers(diffusers: Any, source: Source, tmp_path: Path, monkeypatch: Any) -> None:
    def write(*arguments: Any) -> None:
        write_weights(*arguments, shard=500_000)

    monkeypatch.setattr(weights_diffusers, "write_weights", write)
    convert_weights(source, tmp_path / "new", "diffusers")
    theirs = diffusers.CosmosTransformer3DModel.from_pretrained(tmp_path / "new" / "transformer")
    assert (tmp_path / "new/transformer/diffusion_pytorch_model.safetensors.index.json").exists()
    for name, value in torch.load(source.path, weights_only=True).items():
        there = network_to_diffusers(name)
        assert there is None or torch.equal(theirs.state_dict()[there], value.float()), name


def test_text2world_has_a_pipeline_of_its_own(diffusers: Any, tmp_path: Path) -> None:
    config = replace(VARIANTS["tiny"], condition_mask=False, rope_ratio=(2.0, 2.0, 2.0))
    state = Network(config).state_dict()
    entries = {name: Entry(tuple(value.shape), value.dtype, value.clone) for name, value in state.items()}
    weights_diffusers.write_pipeline(tmp_path, config, entries, None, None, lambda: None)
    theirs = diffusers.CosmosTransformer3DModel.from_pretrained(tmp_path / "transformer")
    assert (theirs.config.in_channels, theirs.config.rope_scale) == (16, [2.0, 2.0, 2.0])
    assert torch.equal(theirs.patch_embed.proj.weight, state["net.x_embedder.proj.1.weight"])
    name = json.loads((tmp_path / "model_index.json").read_text())["_class_name"]
    assert name == "CosmosTextToWorldPipeline" and hasattr(diffusers, name)


def test_guardrails_are_asked_for(diffusers: Any, source: Source, tokenizer: Path, tmp_path: Path) -> None:
    """diffusers makes its own where none are handed over, and refuses to run without."""
    convert_weights(source, tmp_path / "new", "diffusers", tokenizer)
    if diffusers.utils.is_cosmos_guardrail_available():
        pytest.skip("cosmos_guardrail is installed, and would be downloaded for")
    with pytest.raises(ImportError, match="cosmos_guardrail"):
        diffusers.CosmosVideoToWorldPipeline.from_pretrained(tmp_path / "new", text_encoder=None, tokenizer=None)


def test_back_from_diffusers(source: Source, tokenizer: Path, tmp_path: Path) -> None:
    """All but the log-variance survives the way there and back; so does the tokenizer."""
    from forge_cosmos1.tokenizer import CosmosTokenizer
    from forge_cosmos1.tokenizer_options import TokenizerOptions

    convert_weights(source, tmp_path / "there", "diffusers", tokenizer)
    said = convert_weights(Source(tmp_path / "there"), tmp_path / "back.pt", "predict1")
    assert "set afresh: logvar.0.freqs, logvar.0.phases, logvar.1.weight" in said[0]
    found, expected = (torch.load(path, weights_only=True) for path in (tmp_path / "back.pt", source.path))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items() if "logvar" not in name)
    clip = torch.rand(1, 3, 9, 16, 16, generator=torch.Generator().manual_seed(0))
    latents = [
        CosmosTokenizer(TokenizerOptions(weights=str(folder)), make_context(tmp_path)).encode(clip)
        for folder in (tokenizer, tmp_path / "there" / "vae")
    ]
    torch.testing.assert_close(*latents)


def test_documented_commands(
    state: dict[str, Tensor],
    tokenizer: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    forge: Callable[..., Any],
) -> None:
    """In the order of the page, on files of the names it uses."""
    page = Path(__file__).parents[3] / "docs" / "weights.md"
    commands = re.findall(r"^forge convert (.+)$", page.read_text(), re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    torch.save(state, "model.pt")
    adapters = {f"{LAYER}_lora.net.0.weight": torch.zeros(2, 128), f"{LAYER}_lora.net.1.weight": torch.zeros(128, 2)}
    average = {name.replace(".", "-"): value for name, value in adapters.items()}
    torch.save({"model": state | adapters, "ema": average}, "iter_000001000_model.pt")
    shutil.copytree(tokenizer, "Cosmos-Tokenize1-CV8x8x8-720p")
    assert {command.split("--to ")[1].split()[0] for command in commands} == {"safetensors", "predict1", "diffusers"}
    for command in commands:
        code, out, err = forge(*command.split())
        assert (code, err) == (0, ""), command
        assert " written to " in out
