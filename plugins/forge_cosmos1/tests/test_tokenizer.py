"""The tokenizer against diffusers, and what must hold of any weights: causality, shapes, names, streaming."""

from __future__ import annotations

import copy
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from cosmos_forge import Download, ForgeError
from cosmos_forge.testing import LatentTokenizerContract, make_context
from forge_cosmos1.archive import read_torchscript
from forge_cosmos1.tokenizer import CosmosTokenizer
from forge_cosmos1.tokenizer_layers import Past, patch, unpatch
from forge_cosmos1.tokenizer_network import Autoencoder
from forge_cosmos1.tokenizer_options import TokenizerOptions
from forge_cosmos1.tokenizer_weights import from_diffusers

CHANNELS = 4
MEAN = torch.linspace(-0.2, 0.2, 256)
STD = torch.linspace(0.4, 1.0, 256)


@pytest.fixture(scope="module")
def net() -> Autoencoder:
    """A narrow network whose every tensor is random, norms too."""
    torch.manual_seed(5)
    net = Autoencoder(CHANNELS).requires_grad_(False)
    for parameter in net.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.3 * torch.randn_like(parameter))
    return net


@pytest.fixture(scope="module")
def folder(net: Autoencoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights as safetensors, statistics as published."""
    folder = tmp_path_factory.mktemp("tokenizer")
    save_file(net.state_dict(), folder / "tokenizer.safetensors")
    torch.save((MEAN, STD), folder / "mean_std.pt")
    torch.save((torch.full([16], 0.5), torch.full([16], 2.0)), folder / "image_mean_std.pt")
    return folder


def make(folder: Path, **options: object) -> CosmosTokenizer:
    return CosmosTokenizer(TokenizerOptions(weights=str(folder), **options), make_context(folder))


def video(frames: int, height: int = 16, width: int = 32, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, frames, height, width, generator=torch.Generator().manual_seed(frames)) * 2 - 1


class TestContract(LatentTokenizerContract):
    use = "cosmos-cv8x8x8"
    psnr = None  # the weights are random

    @pytest.fixture(autouse=True)
    def _weights(self, folder: Path) -> None:
        self.weights = folder

    def make_options(self, tmp_path: Path) -> dict[str, object]:
        return {"weights": str(self.weights)}


def test_without_a_folder_the_published_files_are_used(folder: Path) -> None:
    asked: list[Download] = []

    def files(download: Download) -> Path:
        asked.append(download)
        return folder

    options = TokenizerOptions()
    assert options.needs() and not TokenizerOptions(weights="somewhere").needs()
    tokenizer = CosmosTokenizer(options, make_context(folder, files=files))
    assert asked == options.needs()
    assert torch.equal(tokenizer.encode(video(9)), make(folder).encode(video(9)))


def test_published_size() -> None:
    with torch.device("meta"):
        net = Autoencoder()
    assert sum(p.numel() for p in net.parameters()) == 105_653_696
    assert sum(p.numel() for part in (net.encoder, net.quant_conv) for p in part.parameters()) == 42_914_864


@pytest.mark.parametrize("frames", [1, 9, 17])
def test_equals_diffusers(frames: int) -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(frames)
    theirs = diffusers.AutoencoderKLCosmos(
        encoder_block_out_channels=(CHANNELS, 2 * CHANNELS, 4 * CHANNELS, 4 * CHANNELS),
        decode_block_out_channels=(2 * CHANNELS, 4 * CHANNELS, 4 * CHANNELS, 4 * CHANNELS),
    ).requires_grad_(False)
    ours = Autoencoder(CHANNELS).requires_grad_(False)
    ours.load_state_dict(from_diffusers(theirs.state_dict()))
    clip = video(frames, 32, 48, batch=2)
    latents = theirs.encode(clip).latent_dist.mode()
    torch.testing.assert_close(ours.encode(clip), latents, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.decode(latents), theirs.decode(latents).sample, atol=2e-5, rtol=1e-5)


def test_haar_keeps_constants_and_inverts() -> None:
    clip = video(9)
    patches = patch(clip, Past())
    assert patches.shape == (1, 192, 3, 4, 8)
    torch.testing.assert_close(unpatch(patches, Past()), clip)
    flat = patch(torch.full_like(clip, 0.25), Past())
    torch.testing.assert_close(flat[:, :3], torch.full_like(flat[:, :3], 0.25))
    assert flat[:, 3:].abs().max() == 0


def test_future_frames_do_not_matter(net: Autoencoder) -> None:
    clip = video(25)
    other = torch.cat([clip[:, :, :9], -clip[:, :, 9:]], dim=2)
    latents = net.encode(clip)
    assert torch.equal(latents[:, :, :2], net.encode(other)[:, :, :2])
    assert not torch.allclose(latents[:, :, 2:], net.encode(other)[:, :, 2:])
    torch.testing.assert_close(latents[:, :, :2], net.encode(clip[:, :, :9]))
    torch.testing.assert_close(net.decode(latents)[:, :, :9], net.decode(latents[:, :, :2]))


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_piece_by_piece_equals_whole(net: Autoencoder, at_once: int) -> None:
    net, clip = copy.deepcopy(net).double(), video(33, batch=2).double()
    latents = net.encode(clip)
    torch.testing.assert_close(net.encode(clip, at_once), latents, atol=1e-12, rtol=0)
    torch.testing.assert_close(net.decode(latents, at_once), net.decode(latents), atol=1e-12, rtol=0)


def test_latents_are_normalised_frame_by_frame(net: Autoencoder, folder: Path) -> None:
    tokenizer, clip = make(folder), video(17)
    mean, std = (values.view(1, 16, 16, 1, 1)[:, :, :3] for values in (MEAN, STD))
    torch.testing.assert_close(tokenizer.encode(clip), (net.encode(clip) - mean) / std)
    torch.testing.assert_close(tokenizer.decode(tokenizer.encode(clip)), net.decode(net.encode(clip)))


def test_first_frame_alone_is_the_first_latent(folder: Path) -> None:
    tokenizer, clip = make(folder), video(9)
    torch.testing.assert_close(tokenizer.encode(clip[:, :, :1]), tokenizer.encode(clip)[:, :, :1])


def test_single_pictures_have_their_own_statistics(net: Autoencoder, folder: Path) -> None:
    tokenizer, picture = make(folder, single_pictures=True), video(1)
    torch.testing.assert_close(tokenizer.encode(picture), (net.encode(picture) - 0.5) / 2)
    torch.testing.assert_close(tokenizer.decode(tokenizer.encode(picture)), net.decode(net.encode(picture)))
    clip = video(9)
    torch.testing.assert_close(tokenizer.encode(clip), make(folder).encode(clip))


def test_long_clips_are_cut(folder: Path) -> None:
    tokenizer, clip = make(folder, chunk_frames=9), video(18)
    latents = tokenizer.encode(clip)
    assert latents.shape == (1, *tokenizer.options.latent_shape(18, 16, 32))
    torch.testing.assert_close(latents[:, :, 2:], tokenizer.encode(clip[:, :, 9:]))
    assert tokenizer.decode(latents).shape == clip.shape


@pytest.mark.parametrize(
    ("shape", "what"),
    [
        ((10, 16, 16), "num_frames must be 8k\\+1 \\(9 or 17 fits\\), got 10"),
        ((0, 16, 16), "num_frames must be 8k\\+1 \\(1 or 9 fits\\), got 0"),
        ((129, 16, 16), "at most 121 or a multiple of it, got 129"),
        ((9, 20, 16), "height must be a multiple of 8 \\(16 or 24 fits\\), got 20"),
        ((9, 16, 4), "width must be a multiple of 8 \\(8 or 16 fits\\), got 4"),
    ],
)
def test_says_which_shapes_fit(shape: tuple[int, int, int], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        TokenizerOptions().latent_shape(*shape)


def test_published_shape() -> None:
    assert TokenizerOptions().latent_shape(121, 704, 1280) == (16, 16, 88, 160)
    assert TokenizerOptions().latent_shape(242, 704, 1280) == (16, 32, 88, 160)
    with pytest.raises(ValidationError, match="8k\\+1"):
        TokenizerOptions(chunk_frames=120)


class Chain(nn.Module):
    """Parts of the network, nested as in the published archives, so that they can be traced."""

    def __init__(self, net: Autoencoder, *names: str) -> None:
        super().__init__()
        for name in names:
            self.add_module(name, getattr(net, name))

    def forward(self, x: Tensor) -> Tensor:
        for part in self.children():
            x = part(x, Past())
        return x

    def save(self, path: Path, example: Tensor) -> None:
        torch.jit.trace(self, example, check_trace=False).save(path)


def write_jit(net: Autoencoder, folder: Path) -> None:
    Chain(net, "encoder", "quant_conv").save(folder / "encoder.jit", video(1))
    Chain(net, "post_quant_conv", "decoder").save(folder / "decoder.jit", torch.zeros(1, 16, 1, 2, 4))


def write_one_jit(net: Autoencoder, folder: Path) -> None:
    Chain(net, "encoder", "quant_conv", "post_quant_conv", "decoder").save(folder / "autoencoder.jit", video(1))


def write_pt(net: Autoencoder, folder: Path) -> None:
    constants = {"encoder.patcher3d.wavelets": torch.ones(2), "decoder.unpatcher3d._arange": torch.arange(2)}
    torch.save(net.state_dict() | constants, folder / "model.pt")


def write_diffusers(net: Autoencoder, folder: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    names = list(diffusers.AutoencoderKLCosmos().state_dict())
    theirs = {ours: name for name in names for ours in from_diffusers({name: torch.empty(0)})}
    save_file({theirs[name]: tensor for name, tensor in net.state_dict().items()}, folder / "model.safetensors")
    (folder / "mean_std.pt").unlink()
    (folder / "config.json").write_text(json.dumps({"latents_mean": MEAN.tolist(), "latents_std": STD.tolist()}))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("write", [write_jit, write_one_jit, write_pt, write_diffusers])
def test_every_published_form_gives_the_same_weights(
    write: Callable[[Autoencoder, Path], None], net: Autoencoder, folder: Path, tmp_path: Path
) -> None:
    torch.save([MEAN, STD], tmp_path / "mean_std.pt")
    write(net, tmp_path)
    clip = video(9)
    assert torch.equal(make(tmp_path).encode(clip), make(folder).encode(clip))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.bool])
def test_archives_keep_dtypes(dtype: torch.dtype, tmp_path: Path) -> None:
    module = nn.Linear(3, 2)
    module.register_buffer("extra", torch.tensor([[3, 0], [1, 2]]).T.to(dtype))
    torch.jit.trace(module, torch.zeros(1, 3)).save(tmp_path / "linear.jit")
    state = read_torchscript(tmp_path / "linear.jit")
    assert list(state) == ["weight", "bias", "extra"]
    assert all(torch.equal(state[name], tensor) for name, tensor in module.state_dict().items())
    assert state["extra"].dtype == dtype


class Command:
    """Runs a command when an ordinary unpickler reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.path}",)


def test_archives_run_no_code(tmp_path: Path) -> None:
    for name in ("encoder", "decoder"):
        with zipfile.ZipFile(tmp_path / f"{name}.jit", "w") as file:
            file.writestr(f"{name}/data.pkl", pickle.dumps(Command(tmp_path / "ran")))
    with pytest.raises(ForgeError, match=r"encoder.jit cannot be read: the archive names posix.system"):
        make(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_says_what_does_not_fit(net: Autoencoder, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ForgeError, match="holds no weights of a tokenizer"):
        make(tmp_path)
    state = net.state_dict()
    state["surplus"] = state.pop("encoder.norm_out.norm.bias")
    state["decoder.norm_out.norm.bias"] = torch.zeros(3)
    save_file(state, tmp_path / "tokenizer.safetensors")
    with pytest.raises(ForgeError) as error:
        make(tmp_path)
    for fault in (
        "in 3 of 310 tensors",
        "missing encoder.norm_out.norm.bias",
        "unexpected surplus",
        "decoder.norm_out.norm.bias is [3], not [8]",
    ):
        assert fault in str(error.value)
    save_file(net.state_dict(), tmp_path / "tokenizer.safetensors")
    with pytest.raises(ForgeError, match=r"mean_std.pt is missing"):
        make(tmp_path)
    torch.save((MEAN[:80], STD[:80]), tmp_path / "mean_std.pt")
    with pytest.raises(ForgeError, match="for 16 channels x 16 latent frames, found 80 and 80"):
        make(tmp_path)
    make(tmp_path, chunk_frames=33)


def test_plan_says_that_the_folder_is_missing(folder: Path) -> None:
    plan = SimpleNamespace(resolve=Path, problem=lambda table, key, what, fix: (table, key, what))
    (problem,) = TokenizerOptions(weights="no/such/folder").check(plan)
    assert problem == ("latent_tokenizer", "weights", "there is no folder no/such/folder")
    assert not [*TokenizerOptions(weights=str(folder)).check(plan), *TokenizerOptions().check(plan)]
