"""Loss, denoiser and plan checks of Video2World."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from cosmos_forge.testing import ModelContract, make_context
from cosmos_forge.types import Batch, Condition, TextEmbedding
from forge_cosmos1.plugin import Video2WorldOptions
from forge_cosmos1.video2world import Video2World


class TestVideo2World(ModelContract):
    use = "cosmos1-video2world"
    options = {"variant": "tiny"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Video2World:
    return make(tmp_path_factory.mktemp("run"))


def make(folder: Path, **options: Any) -> Video2World:
    """Loaded, and the parts that begin at zero stirred, so that nothing hides behind a zero."""
    model = Video2World(Video2WorldOptions(variant="tiny", **options), make_context(folder))
    model.load()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.net.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model


def batch(*samples: int, frames: int = 4) -> Batch:
    each = [torch.Generator().manual_seed(sample) for sample in samples]
    return Batch(
        torch.stack([torch.randn(16, frames, 6, 8, generator=generator) for generator in each]),
        text(*samples),
        torch.tensor([12.0 + sample for sample in samples]),
    )


def text(*samples: int) -> TextEmbedding:
    each = [torch.Generator().manual_seed(100 + sample) for sample in samples]
    tokens_BLD = torch.stack([torch.randn(6, 64, generator=generator) for generator in each])
    return TextEmbedding(tokens_BLD, torch.ones(tokens_BLD.shape[:2], dtype=torch.bool))


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def condition(given: int, **changes: Any) -> Condition:
    clip = batch(0)
    fields = {"negative_text": None, "fps_B": clip.fps_B, "seed": 3} | changes
    return Condition(clip.latents_BCTHW, given, clip.text, **fields)


def test_draws_follow_their_laws(model: Video2World) -> None:
    """Quantiles of sigma, counts of given frames and share of dropped texts as the reference has them."""
    tiny = Batch(
        torch.zeros(4000, 1, 1, 1, 1), TextEmbedding(torch.zeros(4000, 1, 1), torch.ones(4000, 1)), torch.ones(1)
    )
    draws = model.draw(tiny, generators(*range(4000)))
    quantiles = torch.tensor([0.05, 0.5, 0.95])
    assert draws.sigma_B.quantile(quantiles).tolist() == pytest.approx([0.77, 4.0, 20.7], rel=0.1)
    assert draws.augment_sigma_B.quantile(quantiles).tolist() == pytest.approx([0.0019, 0.05, 1.34], rel=0.2)
    assert draws.keep_text_B.mean().item() == pytest.approx(0.8, abs=0.02)
    assert (draws.given_B.bincount() / 4000).tolist() == pytest.approx([1 / 3] * 3, abs=0.03)


def test_a_sample_draws_the_same_alone_and_in_company(model: Video2World) -> None:
    both, alone = model.draw(batch(0, 1), generators(5, 6)), model.draw(batch(1), generators(6))
    for name, value in vars(alone).items():
        assert torch.equal(getattr(both, name)[1:], value), name


def test_given_frames_cost_nothing(model: Video2World) -> None:
    """With all frames given there is no error left, whatever the network says."""
    clip = batch(0, frames=2)
    draws = model.draw(clip, generators(1))
    losses = {
        given: model.loss_of(clip, type(draws)(**{**vars(draws), "given_B": torch.tensor([given])})).metrics["edm"]
        for given in (0, 2)
    }
    assert losses[2] == 0 < losses[0]


def test_loss_of_a_perfect_network_is_its_log_variance(model: Video2World, monkeypatch: pytest.MonkeyPatch) -> None:
    """F's target is (x0 - c_skip x) / c_out; a network that hits it leaves u alone."""
    clip = batch(0)
    draws = model.draw(clip, generators(1))
    x0 = clip.latents_BCTHW * model.sigma_data
    sigma = draws.sigma_B[:, None, None, None, None]

    def perfect(x: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
        noisy = x / model.edm.c_in(sigma)
        return (x0 - model.edm.c_skip(sigma) * noisy) / model.edm.c_out(sigma), torch.full((1,), 0.7)

    monkeypatch.setattr(model, "net", perfect)
    loss = model.loss_of(clip, draws)
    assert loss.metrics["edm"] < 1e-9
    assert loss.total.item() == pytest.approx(0.7)


def test_sum_is_the_mean_times_the_elements(tmp_path: Path) -> None:
    clip, size = batch(0, 1), 16 * 4 * 6 * 8
    mean, total = (make(tmp_path, loss_reduce=reduce).loss(clip, generators(1, 2)).total for reduce in ("mean", "sum"))
    assert total.item() == pytest.approx(mean.item() * size, rel=1e-5)


def test_fresh_weights_differ_with_the_seed_and_start_at_the_data(tmp_path: Path) -> None:
    first, second = (
        Video2World(Video2WorldOptions(variant="tiny"), make_context(tmp_path, seed=seed)) for seed in (0, 1)
    )
    first.load(), second.load()
    name = "net.blocks.block0.blocks.2.block.layer1.weight"
    assert not torch.equal(first.net.state_dict()[name], second.net.state_dict()[name])
    assert first.loss(batch(0, 1), generators(1, 2)).metrics["edm"] < 4  # predicting zero costs about 1


@pytest.mark.parametrize("given", [0, 1, 2])
def test_given_frames_survive(model: Video2World, given: int) -> None:
    denoise = model.denoiser(condition(given), 7.0)
    x, sigma = 5 * torch.randn(1, 16, 4, 6, 8), torch.tensor([5.0])
    clean = batch(0).latents_BCTHW * model.sigma_data
    x0 = denoise(x, sigma)
    assert torch.equal(x0[:, :, :given], clean[:, :, :given])
    assert not torch.isclose(x0[:, :, given:], clean[:, :, given:]).all()


def test_given_frames_are_left_to_the_network_below_their_own_noise(model: Video2World) -> None:
    denoise, x = model.denoiser(condition(2), 0.0), torch.randn(1, 16, 4, 6, 8)
    assert torch.equal(denoise.impose(x, torch.tensor([0.001])), x)
    assert not torch.equal(denoise.impose(x, torch.tensor([0.0011])), x)


def test_imposed_frames_reach_the_network_at_unit_scale(model: Video2World) -> None:
    """Whatever the noise level: (x0 + 0.001 noise) / sqrt(0.001^2 + sigma_data^2)."""
    denoise, x = model.denoiser(condition(1), 0.0), torch.randn(1, 16, 4, 6, 8)
    seen = []
    for level in (80.0, 1.0, 0.01):
        sigma = torch.tensor([level])
        seen.append(model.edm.c_in(sigma) * denoise.impose(x, sigma)[:, :, :1])
    torch.testing.assert_close(seen[0], seen[1], rtol=0, atol=1e-5)
    torch.testing.assert_close(seen[1], seen[2], rtol=0, atol=1e-5)
    torch.testing.assert_close(seen[0], batch(0).latents_BCTHW[:, :, :1], rtol=0, atol=0.02)


@pytest.mark.parametrize("frames", ["keep", "unmask", "zero"])
@pytest.mark.parametrize(("guidance", "evaluations"), [(0.0, 1), (7.0, 2)])
def test_evaluations(tmp_path: Path, frames: str, guidance: float, evaluations: int) -> None:
    model = make(tmp_path, unconditional_frames=frames)
    seen: list[tuple[Any, ...]] = []
    model.net.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    model.denoiser(condition(1), guidance)(torch.randn(1, 16, 4, 6, 8), torch.tensor([2.0]))
    assert len(seen) == evaluations
    if guidance:
        x, _, negative, _, mask, _ = seen[1]
        assert not negative.any()  # the null text
        assert mask.any() == (frames == "keep")
        assert x[:, :, 0].any() == (frames != "zero")


def test_the_same_seed_puts_the_same_noise_on_given_frames(model: Video2World) -> None:
    x, sigma = torch.zeros(1, 16, 4, 6, 8), torch.tensor([2.0])
    first, second, other = (model.denoiser(condition(1, seed=seed), 0.0).impose(x, sigma) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_the_loss_at_a_noise_level_is_that_of_drawing_it(model: Video2World) -> None:
    """Where the law of sigma has no width, drawing gives its one level; all else is drawn alike."""
    narrow = make(Path(), p_mean=0.3, p_std=1e-9)
    clip = batch(0, 1)
    with torch.no_grad():
        drawn = narrow.loss(clip, generators(5, 6)).total
        told = model.loss(clip, generators(5, 6), 4 * math.exp(0.3)).total
    assert told.item() == pytest.approx(drawn.item(), rel=1e-5)
    assert narrow.sigmas == pytest.approx([4 * math.exp(0.3)] * 5)
    assert model.sigmas[2] == pytest.approx(4.0)
