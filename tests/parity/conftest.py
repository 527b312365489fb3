"""Recorded cases of the reference, and what is said about them.

Every folder named in the environment's FORGE_GOLDEN (several with `:` between; default: `../shared/golden` beside the
repository) is searched for `manifest.json`. A test says which cases it can check and gets one at a time:

    @pytest.mark.golden("a_dit/*")                 # "<kind>/<case>", with wildcards; several are fine
    def test_network(case, check):
        check("output", ours, case.tensors["out/x"], 1e-4)

so a new case of a known form is tested without touching code. The summary (`tests/conftest.py`) has a line a case with
its largest error, and names the cases that no test is for.
"""

from __future__ import annotations

import fnmatch
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cosmos_forge.testing import make_context
from cosmos_forge.types import Condition, TextEmbedding
from forge_cosmos1.denoiser import GuidedDenoiser
from forge_cosmos1.dit import DiTConfig
from forge_cosmos1.plugin import Video2WorldOptions
from forge_cosmos1.video2world import Network, Video2World

DEFAULT = Path(__file__).parents[2] / "../shared/golden"
ROOTS = [Path(folder) for folder in os.environ.get("FORGE_GOLDEN", str(DEFAULT)).split(os.pathsep)]

# What the reference's constructor says beside the sizes, and all that is implemented.
SWITCHES = {
    "concat_padding_mask": True,
    "block_config": "FA-CA-MLP",
    "use_cross_attn_mask": False,
    "pos_emb_cls": "rope3d",
    "pos_emb_learnable": False,
    "pos_emb_interpolation": "crop",
    "affline_emb_norm": True,
    "use_adaln_lora": True,
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
}


@dataclass(frozen=True)
class Case:
    """A recorded case: `record` is its JSON, `path` where that stands."""

    kind: str
    name: str
    path: Path

    @property
    def id(self) -> str:
        return f"{self.kind}/{self.name}"

    @cached_property
    def record(self) -> dict[str, Any]:
        return json.loads(self.path.read_text())

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        return load_file(self.path.with_suffix(".safetensors"))

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `prefix`, without it."""
        return {name[len(prefix) :]: value for name, value in self.tensors.items() if name.startswith(prefix)}

    def beside(self, path: str) -> Case:
        """Another case, by its path as this one's JSON gives it."""
        file = (self.path.parent / path).resolve().with_suffix(".json")
        return Case(file.parent.name, file.stem, file)

    def dit_config(self) -> DiTConfig:
        """The network of the case. Fails on a switch that we do not have."""
        c = self.record["config"]["constructor"]
        other = {name: c[name] for name, value in SWITCHES.items() if name in c and c[name] != value}
        assert not other, f"not implemented: {other}"
        return DiTConfig(
            model_channels=c["model_channels"],
            num_blocks=c["num_blocks"],
            num_heads=c["num_heads"],
            latent_channels=c["in_channels"] - 1,
            crossattn_emb_channels=c["crossattn_emb_channels"],
            mlp_ratio=c["mlp_ratio"],
            adaln_lora_dim=c["adaln_lora_dim"],
            rope_ratio=tuple(c[f"rope_{axis}_extrapolation_ratio"] for axis in "thw"),
            max_size=(c["max_frames"], c["max_img_h"], c["max_img_w"]),
            extra_per_block_abs_pos_emb=c["extra_per_block_abs_pos_emb"],
            add_augment_sigma_embedding=c["add_augment_sigma_embedding"],
        )

    def video2world(self, folder: Path, **options: Any) -> Video2World:
        """Our model with the weights that the case names."""
        weights = self.beside(self.record["config"]["weights"])
        model = Video2World(Video2WorldOptions(variant="tiny", **options), make_context(folder))
        model.net = Network(weights.dit_config())
        model.net.load_state_dict(weights.tensors)
        return model

    def denoiser(self, folder: Path) -> GuidedDenoiser:
        """Our model's, with the condition and guidance of the call that the case records."""
        config = self.record["config"]
        call, batch = config["call"], self.batch()
        augment, frames = "condition_augment_sigma", "unmask"
        if "solver" in call:  # recorded with the reference's training code
            augment, frames = "condition_video_augment_sigma_in_inference", "zero"
        model = self.video2world(
            folder,
            augment_sigma=call[augment],
            unconditional_frames=frames if call["add_input_frames_guidance"] else "keep",
        )
        condition = Condition(
            latents_BCTHW=batch["condition_latent"] / model.sigma_data,
            given=call["num_condition_t"],
            text=embedding(batch, ""),
            negative_text=embedding(batch, "neg_") if call["is_negative_prompt"] else None,
            fps_B=batch["fps"],
            seed=call["seed"],
        )
        return replace(model.denoiser(condition, call["guidance"]), padding_B1HW=batch["padding_mask"])

    def batch(self) -> dict[str, Tensor]:
        """The batch of the case, which may stand beside another."""
        other = self.record["config"].get("batch")
        return (self.beside(other.split()[0]) if other else self).part("batch/")


def embedding(batch: dict[str, Tensor], prefix: str) -> TextEmbedding:
    return TextEmbedding(batch[f"{prefix}t5_text_embeddings"], batch[f"{prefix}t5_text_mask"].bool())


def find_cases() -> Iterator[Case]:
    for root in ROOTS:
        for manifest in sorted(root.rglob("manifest.json")):
            for entry in json.loads(manifest.read_text())["cases"]:
                yield Case(entry["kind"], entry["case"], manifest.parent / entry["json"])


CASES = {case.id: case for case in find_cases()}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("golden")
    if marker is None:
        return
    found = [case for name, case in CASES.items() if any(fnmatch.fnmatch(name, pattern) for pattern in marker.args)]
    none = pytest.param(None, marks=pytest.mark.skip(f"no recorded case {marker.args} in {[*map(str, ROOTS)]}"))
    metafunc.parametrize("case", found or [none], ids=[case.id for case in found] or ["none"])


@pytest.fixture
def check(case: Case, record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """`check(what, ours, recorded, tolerance, relative=False)`: asserts, and notes the error for the summary.

    The error is the largest absolute difference; relative: over the largest recorded entry.
    """

    def check(what: str, ours: Any, recorded: Any, tolerance: float, relative: bool = False) -> None:
        ours, recorded = torch.as_tensor(ours), torch.as_tensor(recorded)
        assert ours.shape == recorded.shape, f"{what}: shape {tuple(ours.shape)}, recorded {tuple(recorded.shape)}"
        error = (ours.double() - recorded.double()).abs().max().item()
        if relative:
            error /= recorded.double().abs().max().item() or 1.0
        record_property("recorded case", [case.id, error / tolerance if tolerance else error, error, what])
        assert error <= tolerance, f"{what}: differs by {error:.2g}, allowed is {tolerance:.2g}"

    return check


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tells every test's report which cases there are, since another process may sum up."""
    for item in items:
        if item.get_closest_marker("golden"):
            item.user_properties.append(("recorded cases", sorted(CASES)))
