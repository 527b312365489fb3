"""Single denoising steps with guidance and given frames."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cosmos_forge.testing import make_context
from forge_cosmos1 import weights
from forge_cosmos1.video2world import Network

TOLERANCE = 2e-5  # estimates are of size 10


@pytest.mark.golden("c_v2w_step/*_model")
def test_weights_load_by_name(case: Any, check: Callable[..., None], tmp_path: Path) -> None:
    """Through our own loader, which accepts neither a missing nor an unexpected name."""
    with torch.device("meta"):
        net = Network(case.dit_config())
    context = make_context(tmp_path)
    note = weights.load(net, case.path.with_suffix(".safetensors"), context.device, context.dtype)
    names = [name for name in case.tensors if name.startswith("net.")]
    assert f"{len(names)} of {len(names)} tensors" in note
    for name, value in net.state_dict().items():
        check(name, value, case.tensors[name], 0)


@pytest.mark.golden("c_v2w_step/c[0-9]*")
def test_step(case: Any, check: Callable[..., None], tmp_path: Path) -> None:
    training_side = "solver" in case.record["config"]["call"]
    denoise = case.denoiser(tmp_path)
    calls: list[tuple[torch.Tensor, ...]] = []
    denoise.net.register_forward_hook(lambda net, inputs, outputs: calls.append((inputs[0], inputs[4], outputs[0])))

    for name in sorted({name.split("/")[0] for name in case.tensors if name.startswith(("step", "call"))}):
        step = case.part(f"{name}/")
        x, sigma = step["in/x" if training_side else "in/xt"], step["in/sigma"]
        # Imposed frames are of size sigma.
        imposed = step["out/xt" if training_side else "out/new_xt"]
        check(f"{name} state", denoise.impose(x, sigma), imposed, 1e-6, relative=True)
        calls.clear()
        check(f"{name} x0", denoise(x, sigma), step["out/x0"], TOLERANCE)
        check(f"{name} network input", calls[0][0], step["out/net_in"], TOLERANCE)
        for branch, (_, mask, output) in zip(("cond", "uncond"), calls, strict=denoise.guidance > 0):
            check(f"{name} mask, {branch}", mask, step[f"out/mask_{branch}"], 0)
            check(f"{name} network output, {branch}", output, step[f"out/net_{branch}"], TOLERANCE)
