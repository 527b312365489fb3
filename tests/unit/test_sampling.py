"""While one component works, no other is in memory."""

import gc
import shutil
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cosmos_forge.generation import making, outputs, sampling
from cosmos_forge.planning import make_plan
from cosmos_forge.plugins import load_plugins
from cosmos_forge.recipe import read_recipe
from cosmos_forge.run import Run
from cosmos_forge.stages import generate
from cosmos_forge.testing import make_context
from cosmos_forge.worker import component

ROOT = Path(__file__).parents[2]
VIDEO = [
    'stages=["generate"]',
    "model.weights=fresh",
    "generate.weights=fresh",
    f"generate.input={ROOT / 'recipes' / 'ball.jpg'}",
    "generate.prompt=a ball",
    "generate.given_frames=1",
    "generate.num_frames=17",
    "generate.height=48",
    "generate.width=48",
    "sampler.steps=2",
]
compiler = pytest.mark.skipif(not shutil.which("g++"), reason="compiling for a CPU needs g++")


def test_frames_are_bytes_that_lie_as_files_want_them():
    pixels = torch.linspace(-1.2, 1.2, 3 * 9 * 4 * 6).view(1, 3, 9, 4, 6)
    found = sampling.frames(SimpleNamespace(decode=lambda latents: latents), pixels)
    np.testing.assert_array_equal(found, ((pixels[0].numpy() + 1) * 127.5).round().clip(0, 255))
    assert found.dtype == torch.uint8 and np.shares_memory(outputs.THWC(found), found)


@pytest.mark.slow
@pytest.mark.parametrize("compiled", ["none", pytest.param("blocks", marks=compiler)])
def test_weights_are_gone_when_frames_are_decoded(tmp_path, monkeypatch, compiled):
    plan = make_plan(
        read_recipe(ROOT / "recipes" / "quickstart.toml", [*VIDEO, f"compile={compiled}"]),
        load_plugins(),
        runs=tmp_path,
    )
    context = make_context(tmp_path, device=torch.device("cpu"), dtype=torch.float32)
    parallelism = component(plan, "parallelism", context)
    parallelism.start()
    load, decode = sampling._load_model, making.decode
    weights, left = [], []

    def loaded(*inputs):
        model = load(*inputs)
        weights.extend(map(weakref.ref, model.net.parameters()))
        return model

    def decoded(*inputs):
        left.append(sum(weight() is not None for weight in weights))
        return decode(*inputs)

    monkeypatch.setattr(sampling, "_load_model", loaded)
    monkeypatch.setattr(making, "decode", decoded)
    gc.disable()  # nothing but the product frees what hangs together in circles
    try:
        generate.run(plan, Run(plan.folder), context, parallelism)
    finally:
        gc.enable()
    assert len(weights) > 50 and left == [0]
