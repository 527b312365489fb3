"""Plugins that exist only here, one component a kind, and a recipe that uses them all."""

from types import ModuleType

import pytest
from pydantic import Field

from cosmos_forge import Download, Options, Problem, hookimpl
from cosmos_forge.plugins import Source, load_plugins

RECIPE = """\
stages = ["fetch", "prepare", "train", "export", "generate"]

[model]
use = "tiny-model"

[latent_tokenizer]
use = "tiny-tokenizer"

[text_encoder]
use = "tiny-text"

[dataset]
use = "tiny-data"
path = "clips"

[method]
use = "tiny-method"
rank = 4

[parallelism]
use = "tiny-parallel"

[sampler]
use = "tiny-sampler"

[prepare]
held_out = 1

[train]
steps = 100
lr = 1e-4
"""


class ModelOptions(Options):
    """A model."""

    weights: str | None = Field(None, description="published weights, or a path")

    def needs(self):
        files = ("model.safetensors",)
        return [Download("someone/weights", files, 14.5, "a licence")] if self.weights == "published" else []


class TokenizerOptions(Options):
    """A latent tokenizer."""

    def latent_shape(self, num_frames, height, width):
        if num_frames % 8 != 1:
            raise ValueError(f"num_frames must be 8k+1, got {num_frames}")
        if height % 16 or width % 16:
            raise ValueError(f"height and width must be multiples of 16, got {height}x{width}")
        return 16, num_frames // 8 + 1, height // 8, width // 8


class TextOptions(Options):
    """A text encoder."""

    max_tokens: int = Field(512, ge=1, description="tokens of a prompt")

    @property
    def width(self):
        return 1024


class DataOptions(Options):
    """Clips in a folder."""

    path: str = Field(description="folder of the clips")
    num_frames: int = Field(17, ge=1, description="frames")
    height: int = Field(64, ge=16, description="pixels")
    width: int = Field(96, ge=16, description="pixels")

    def check(self, plan):
        from pathlib import Path

        if not Path(self.path).is_dir():
            yield plan.problem("dataset", "path", f"folder {self.path} does not exist", "name a folder of clips")
        elif not any(Path(self.path).iterdir()):
            yield plan.problem("dataset", "path", f"folder {self.path} is empty", "put clips into it")


class MethodOptions(Options):
    """A method."""

    rank: int = Field(8, ge=1, le=512, description="rank of the adapters; 4 to 64 is usual")
    mood: str = Field("calm", description="something about the weather")


class OtherMethodOptions(Options):
    """A method that cannot check itself."""

    def check(self, plan) -> list[Problem]:
        raise RuntimeError("out of luck")

    def needs(self):
        raise RuntimeError("out of luck here too")


class ParallelOptions(Options):
    """A parallelism."""

    max_gpus: int = Field(8, ge=1, description="GPUs it can use")

    def processes(self, gpus):
        if gpus > self.max_gpus:
            raise ValueError(f"{gpus} GPUs are more than {self.max_gpus}")
        return max(1, gpus)


class SamplerOptions(Options):
    """A sampler."""

    steps: int = Field(35, ge=1, description="steps")

    @property
    def evaluations(self):
        return self.steps


class LoggerOptions(Options):
    """A logger."""

    every: int = Field(1, ge=1, description="events")

    def check(self, plan):
        if self.every > 99:
            yield plan.problem(plan.name_of(self), "every", f"every = {self.every} is hardly ever")


def _plugin():
    plugin = ModuleType("tiny_plugin")
    offers = {
        "register_models": {"tiny-model": ModelOptions},
        "register_latent_tokenizers": {"tiny-tokenizer": TokenizerOptions},
        "register_text_encoders": {"tiny-text": TextOptions},
        "register_datasets": {"tiny-data": DataOptions},
        "register_methods": {"tiny-method": MethodOptions, "unlucky-method": OtherMethodOptions},
        "register_parallelisms": {"tiny-parallel": ParallelOptions},
        "register_samplers": {"tiny-sampler": SamplerOptions},
        "register_loggers": {"tiny-logger": LoggerOptions},
    }
    for hook, components in offers.items():

        def register_all(register, components=components):
            for name, options in components.items():
                register(name, options=options, build="tiny_plugin:build")

        setattr(plugin, hook, hookimpl(register_all))
    return plugin


def _broken():
    raise ImportError("no module named missing_dependency")


@pytest.fixture
def plugins():
    return load_plugins([Source("tiny", "tiny-package", "1.0", _plugin)])


@pytest.fixture
def plugins_and_a_broken_one():
    return load_plugins([Source("tiny", "tiny-package", "1.0", _plugin), Source("sad", "sad-package", "0.3", _broken)])


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A working directory with `clips/` and `r.toml`, on a machine without GPUs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FORGE_GPUS", "0")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").write_bytes(b"")
    (tmp_path / "r.toml").write_text(RECIPE)
    return tmp_path
