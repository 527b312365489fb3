"""Whole runs against diffusers' `CosmosVideoToWorldPipeline`: the same weights, prompt, frames and noise, all networks
tiny and random, theirs loaded from what `forge convert` wrote."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from cosmos_forge.testing import make_context
from cosmos_forge.testing.fakes import build
from cosmos_forge.types import Condition
from forge_cosmos1 import weights
from forge_cosmos1.tokenizer_network import Autoencoder
from forge_cosmos1.variants import VARIANTS
from forge_cosmos1.video2world import Network
from forge_cosmos1.weights_convert import Source, convert_weights

STEPS, SIGMA_MIN, SEED, FPS = 5, 0.002, 7, 24
FRAMES, HEIGHT, WIDTH = 17, 32, 48
PROMPTS = ("a red ball rolls", "rolls")
# All that has to be said for a video to be theirs.
MODEL = {"variant": "tiny", "rope_precision": "fp32", "augment_noise": "fresh"}
SAMPLER = {"steps": STEPS, "sigma_min": SIGMA_MIN, "convention": "diffusers"}


class Permissive:
    """Stands where the guardrails do, and refuses nothing."""

    def to(self, device: object) -> None: ...

    def check_text_safety(self, prompt: str) -> bool:
        return True


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline of diffusers: all weights random."""
    folder = tmp_path_factory.mktemp("pipeline")
    with torch.device("meta"):
        net = Network(VARIANTS["tiny"])
    weights.initialise(net, 5, torch.device("cpu"), torch.float32)
    generator = torch.Generator().manual_seed(6)
    for parameter in net.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    save_file({name: value.detach() for name, value in net.state_dict().items()}, folder / "w.safetensors")
    torch.manual_seed(4)
    (folder / "tokenizer").mkdir()
    save_file(Autoencoder(4).state_dict(), folder / "tokenizer" / "w.safetensors")
    torch.save((torch.linspace(-0.2, 0.2, 256), torch.linspace(0.5, 1.5, 256)), folder / "tokenizer" / "mean_std.pt")
    make_t5(folder / "t5")
    convert_weights(
        Source(folder / "w.safetensors"), folder / "whole", "diffusers", folder / "tokenizer", folder / "t5"
    )
    return folder


def make_t5(folder: Path) -> None:
    """An encoder and its tokenizer, as `save_pretrained` leaves them."""
    from tokenizers import SentencePieceUnigramTokenizer
    from transformers import T5Config, T5ForConditionalGeneration, T5TokenizerFast

    folder.mkdir()
    words = SentencePieceUnigramTokenizer()
    special = ["<pad>", "</s>", "<unk>"]
    words.train_from_iterator(
        PROMPTS[:1] * 9, vocab_size=30, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    words.save(str(folder / "tokenizer.json"))
    T5TokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), extra_ids=0).save_pretrained(folder)
    config = T5Config(vocab_size=32, d_model=64, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    (folder / "config.json").write_text(config.to_json_string())
    torch.save(T5ForConditionalGeneration(config).state_dict(), folder / "pytorch_model.bin")


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Iterator[Any]:
    diffusers = pytest.importorskip("diffusers")
    from diffusers.models.transformers import transformer_cosmos

    with pytest.MonkeyPatch.context() as patch:
        if not hasattr(transformer_cosmos, "transforms"):  # torchvision's, of which one function is needed
            resize = SimpleNamespace(resize=lambda mask, size, interpolation: F.interpolate(mask, size))
            stand_in = SimpleNamespace(functional=resize, InterpolationMode=SimpleNamespace(NEAREST=None))
            patch.setattr(transformer_cosmos, "transforms", stand_in, raising=False)
        pipeline = diffusers.CosmosVideoToWorldPipeline.from_pretrained(folder / "whole", safety_checker=Permissive())
        pipeline.set_progress_bar_config(disable=True)
        yield pipeline


def given_frames(count: int) -> Tensor:
    """TCHW in [0, 1], in 256 levels."""
    generator = torch.Generator().manual_seed(3)
    return torch.randint(256, (count, 3, HEIGHT, WIDTH), generator=generator) / 255


def unit_noise() -> Tensor:
    shape = (1, 16, (FRAMES - 1) // 8 + 1, HEIGHT // 8, WIDTH // 8)
    return torch.randn(shape, generator=torch.Generator().manual_seed(11))


@torch.no_grad()
def theirs(pipeline: Any, count: int, guidance: float, **options: Any) -> Tensor:
    made = pipeline(
        video=list(given_frames(count)),
        prompt=PROMPTS[0],
        negative_prompt=PROMPTS[1],
        height=HEIGHT,
        width=WIDTH,
        num_frames=FRAMES,
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        fps=FPS,
        latents=unit_noise(),
        generator=torch.Generator().manual_seed(SEED),
        output_type="latent",
        **options,
    )
    return made.frames


@torch.no_grad()
def ours(folder: Path, count: int, guidance: float, model: dict[str, Any], sampler: dict[str, Any]) -> Tensor:
    """Through the components of a recipe."""
    context = make_context(folder)
    encoder = build("text_encoder", "t5", {"model": str(folder / "t5"), "width": 64}, context)
    tokenizer = build("latent_tokenizer", "cosmos-cv8x8x8", {"weights": str(folder / "whole" / "vae")}, context)
    network = build("model", "cosmos1-video2world", {"weights": str(folder / "whole"), **model}, context)
    network.load()
    noise_BCTHW = unit_noise()
    pixels_BCTHW = given_frames(count).permute(1, 0, 2, 3)[None] * 2 - 1
    known_BCTHW = tokenizer.encode(pixels_BCTHW)
    whole_BCTHW = torch.zeros_like(noise_BCTHW)
    whole_BCTHW[:, :, : known_BCTHW.shape[2]] = known_BCTHW
    condition = Condition(
        latents_BCTHW=whole_BCTHW,
        given=known_BCTHW.shape[2],
        text=encoder.encode([PROMPTS[0]]),
        negative_text=encoder.encode([PROMPTS[1]]),
        fps_B=torch.tensor([float(FPS)]),
        seed=SEED,
    )
    walk = build("sampler", "euler", sampler, context)
    return walk.sample(network.denoiser(condition, guidance), noise_BCTHW)


@pytest.mark.parametrize("count", [1, 9])
@pytest.mark.parametrize(
    ("guidance", "frames"), [(3.0, "keep"), (7.0, "unmask"), (0.0, "keep")], ids=["guided", "frames-guided", "plain"]
)
def test_the_video_is_theirs(folder: Path, pipeline: Any, count: int, guidance: float, frames: str) -> None:
    expected = theirs(pipeline, count, guidance, input_frames_guidance=frames == "unmask")
    found = ours(folder, count, guidance, {**MODEL, "unconditional_frames": frames}, SAMPLER)
    assert found.dtype == expected.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
    assert expected.std() > 0.2


def test_noise_on_given_frames_is_theirs(folder: Path, pipeline: Any) -> None:
    """With so much of it that it counts; the draws are theirs one by one."""
    expected = theirs(pipeline, 9, 3.0, augment_sigma=0.5)
    found = ours(folder, 9, 3.0, {**MODEL, "augment_sigma": 0.5}, SAMPLER)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
    other = ours(folder, 9, 3.0, {**MODEL, "augment_sigma": 0.5, "augment_noise": "fixed"}, SAMPLER)
    assert (other - expected).abs().max() > 0.01


@pytest.mark.parametrize(
    ("model", "sampler"),
    [
        ({}, {"convention": "predict1"}),
        ({}, {"sigma_min": 0.0002}),
        ({"unconditional_frames": "unmask"}, {}),
        ({"augment_noise": "fixed"}, {}),
    ],
    ids=lambda options: "-".join(options),
)
def test_each_difference_is_one(folder: Path, pipeline: Any, model: dict[str, Any], sampler: dict[str, Any]) -> None:
    """What the documentation lists, left at Cosmos-Predict1's own, gives another video."""
    expected = theirs(pipeline, 9, 3.0)
    found = ours(folder, 9, 3.0, {**MODEL, **model}, {**SAMPLER, **sampler})
    assert (found - expected).abs().max() > 1e-4
