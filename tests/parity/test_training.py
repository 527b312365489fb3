"""The loss of one training step with recorded draws, and its gradients."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch

from cosmos_forge.edm import LogNormal
from cosmos_forge.types import Batch, TextEmbedding
from forge_cosmos1.video2world import Draws

TOLERANCE = 1e-5  # relative


@pytest.mark.golden("f_training/*_loss_*")
def test_loss_and_gradients(case: Any, check: Callable[..., None], tmp_path: Path) -> None:
    config, tensors = case.record["config"], case.tensors
    model = case.video2world(tmp_path, loss_reduce=config["loss_reduce"], learned_variance=config["loss_add_logvar"])
    batch = Batch(
        tensors["in/tokenizer_latent"],
        TextEmbedding(tensors["batch/t5_text_embeddings"], tensors["batch/t5_text_mask"].bool()),
        tensors["batch/fps"],
    )
    draws = Draws(
        keep_text_B=tensors["draw/text_keep"],
        given_B=torch.full_like(batch.fps_B, config["num_condition_t"]),
        sigma_B=tensors["in/sigma"],
        noise_BCTHW=tensors["draw/epsilon"],
        augment_sigma_B=tensors["in/augment_sigma"],
        augment_noise_BCTHW=tensors["draw/augment_noise"],
    )
    loss = model.loss_of(batch, draws, tensors["batch/padding_mask"])
    check("edm", loss.metrics["edm"], tensors["out/edm_loss"].squeeze(), TOLERANCE, relative=True)
    check("mse", loss.metrics["mse"], tensors["out/mse_loss"].squeeze(), TOLERANCE, relative=True)

    total = config["loss_scale"] * loss.total  # the reference's factor; training has no use for it
    check("loss", total, case.record["scalars"]["loss"], TOLERANCE, relative=True)
    total.backward()
    parameters = dict(model.net.named_parameters())
    for name, recorded in case.part("grad/").items():
        check(f"gradient of {name}", parameters[name].grad, recorded, TOLERANCE, relative=True)
    for name, recorded in case.record["scalars"]["grad_norms"].items():
        grad = parameters[name].grad
        if recorded is None:
            assert grad is None, f"{name} must get no gradient"
        else:
            check(f"norm of the gradient of {name}", grad.norm(), recorded, TOLERANCE, relative=True)


@pytest.mark.golden("f_training/*_loss_*")
def test_noise_levels(case: Any, check: Callable[..., None]) -> None:
    """Sigmas from the uniform draws behind them, through the inverse normal distribution."""
    config, tensors = case.record["config"], case.tensors
    given, sde = config["video_cond_bool"], config["sde"]
    main = LogNormal(sde["p_mean"], sde["p_std"], sqrt(config["config_latent_shape"][1]))
    augment = LogNormal(
        given["augment_sigma_sample_p_mean"],
        given["augment_sigma_sample_p_std"],
        given["augment_sigma_sample_multiplier"],
    )
    for what, law in ("sigma", main), ("augment", augment):
        sigma = law.sigma(torch.special.ndtri(tensors[f"draw/{what}_cdf"]))
        recorded = tensors["in/sigma" if what == "sigma" else "in/augment_sigma"]
        check(what, sigma, recorded, 1e-6, relative=True)
