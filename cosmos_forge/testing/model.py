"""The contract of models.

Shape suffixes: B batch, C channels, T time, H height, W width, L text tokens, D width of a token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cosmos_forge.testing.contract import Contract
from cosmos_forge.types import Batch, Condition, TextEmbedding


class ModelContract(Contract):
    """Options must choose a small model that needs no weights. latents: (C, T, H, W) and text: (L, D) that fit it."""

    kind = "model"
    latents: tuple[int, int, int, int] = (16, 3, 8, 8)
    text: tuple[int, int] = (8, 64)

    def loaded(self, tmp_path: Path) -> Any:
        """The model with its weights; those that start at zero are stirred, so that nothing hides behind a zero."""
        model = self.make(tmp_path)
        model.load()
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in model.net.parameters():
                if not parameter.any():
                    parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
        return model

    def batch(self, samples: Sequence[int] = (0, 1)) -> Batch:
        """Random latents and texts; sample i is the same in every batch."""
        each = [torch.Generator().manual_seed(10 + sample) for sample in samples]
        latents_BCTHW = torch.stack([torch.randn(self.latents, generator=generator) for generator in each])
        return Batch(latents_BCTHW, self.embedding(each), torch.full((len(samples),), 24.0))

    def embedding(self, generators: Sequence[torch.Generator]) -> TextEmbedding:
        """Random tokens, the last two masked."""
        mask_BL = torch.ones(len(generators), self.text[0], dtype=torch.bool)
        mask_BL[:, -2:] = False
        tokens_BLD = torch.stack([torch.randn(self.text, generator=generator) for generator in generators])
        return TextEmbedding(tokens_BLD * mask_BL[..., None], mask_BL)

    def condition(self, given: int = 1) -> Condition:
        """One sample with `given` known latent frames and a negative prompt."""
        batch = self.batch([0])
        negative = self.embedding([torch.Generator().manual_seed(99)])
        return Condition(batch.latents_BCTHW, given, batch.text, negative, batch.fps_B)

    def test_net_and_blocks(self, tmp_path: Path) -> None:
        model = self.loaded(tmp_path)
        assert model.sigma_data > 0, "`sigma_data` must be the deviation of clean data, a positive number"
        assert model.blocks, "`blocks` must name the repeated blocks"
        for name in model.blocks:
            assert any(True for _ in model.net.get_submodule(name).parameters()), f"block `{name}` has no parameters"
        meta = [name for name, tensor in model.net.state_dict().items() if tensor.is_meta]
        assert not meta, f"`load` left {meta[:3]} without values"

    def test_fresh_weights_depend_on_the_seed_alone(self, tmp_path: Path) -> None:
        first, second = self.make(tmp_path), self.make(tmp_path)
        first.load()
        torch.manual_seed(12345)  # the global generator must not matter
        second.load()
        different = [
            name
            for name, value in first.net.state_dict().items()
            if not torch.equal(value, second.net.state_dict()[name])
        ]
        assert not different, (
            f"two loads with one seed differ in {different[:3]}: draw from a generator of context.seed"
        )

    def test_loss_is_finite_and_differentiable(self, tmp_path: Path) -> None:
        model = self.loaded(tmp_path)
        loss = model.loss(self.batch(), generators((1, 2)))
        assert loss.total.ndim == 0 and torch.isfinite(loss.total), (
            f"the loss must be a finite scalar, got {loss.total}"
        )
        loss.total.backward()
        grads = [parameter.grad for parameter in model.net.parameters() if parameter.grad is not None]
        assert grads and all(torch.isfinite(grad).all() for grad in grads), "gradients must be finite"
        assert any(grad.any() for grad in grads), "no gradient reached the network"
        live = [name for name, metric in loss.metrics.items() if metric.requires_grad or metric.ndim]
        assert not live, f"metrics must be detached scalars: {live}"

    def test_loss_is_repeatable(self, tmp_path: Path) -> None:
        model = self.loaded(tmp_path)
        with torch.no_grad():
            first, second, other = (
                model.loss(self.batch(), generators(seeds)).total for seeds in ((1, 2), (1, 2), (3, 4))
            )
        assert torch.equal(first, second), "the same generators must give the same loss"
        assert not torch.equal(first, other), "the loss draws nothing from its generators"

    def test_loss_at_a_noise_level(self, tmp_path: Path) -> None:
        model = self.loaded(tmp_path)
        levels = list(model.sigmas)
        assert len(levels) > 1 and levels[0] > 0 and levels == sorted(set(levels)), (
            f"`sigmas` must be a few rising noise levels, got {levels}"
        )
        with torch.no_grad():
            low, again, high = (
                model.loss(self.batch(), generators((1, 2)), sigma).total
                for sigma in (levels[0], levels[0], levels[-1])
            )
            other = model.loss(self.batch(), generators((3, 4)), levels[0]).total
        assert torch.equal(low, again), "the same generators and sigma must give the same loss"
        assert not torch.equal(low, other), "at a given sigma all else must still be drawn from the generators"
        assert not torch.equal(low, high), "the loss at two noise levels is the same: is sigma taken?"

    def test_loss_is_a_mean_over_samples(self, tmp_path: Path) -> None:
        model = self.loaded(tmp_path)
        with torch.no_grad():
            both = model.loss(self.batch(), generators((1, 2))).total
            first = model.loss(self.batch([0]), generators((1,))).total
            second = model.loss(self.batch([1]), generators((2,))).total
        mean = (first + second) / 2
        assert torch.allclose(both, mean, rtol=1e-4), (
            f"a batch's loss, {both:.6f}, is not the mean of its samples' alone, {mean:.6f}: draw all of sample b's "
            "randomness from generators[b], and let no sample see another"
        )

    def test_given_frames_survive(self, tmp_path: Path) -> None:
        model = self.loaded(tmp_path)
        condition = self.condition()
        clean = condition.latents_BCTHW[:, :, : condition.given] * model.sigma_data
        with torch.no_grad():
            x0_BCTHW = model.denoiser(condition, 1.0)(self.noisy(), torch.tensor([2.0]))
        assert x0_BCTHW.dtype == torch.float32 and tuple(x0_BCTHW.shape) == (1, *self.latents), (
            f"x0 must be float32 of the state's shape, got {x0_BCTHW.dtype} of {tuple(x0_BCTHW.shape)}"
        )
        far = (x0_BCTHW[:, :, : condition.given] - clean).abs().max().item()
        assert far < 1e-3, f"the given frames must come back, times sigma_data; they differ by {far:.2g}"

    def test_guidance_is_linear(self, tmp_path: Path) -> None:
        model = self.loaded(tmp_path)
        with torch.no_grad():
            off, one, three = (
                model.denoiser(self.condition(), guidance)(self.noisy(), torch.tensor([2.0]))
                for guidance in (0.0, 1.0, 3.0)
            )
        assert not torch.equal(off, one), "guidance changes nothing: does the negative prompt reach the network?"
        far = (three - (off + 3 * (one - off))).abs().max().item()
        assert far < 1e-4, f"x0 must be cond + guidance (cond - uncond), 0 being off; it differs by {far:.2g}"

    def test_no_guidance_costs_one_evaluation(self, tmp_path: Path) -> None:
        model = self.loaded(tmp_path)
        seen: list[int] = []
        model.net.register_forward_hook(lambda *_: seen.append(1))
        with torch.no_grad():
            model.denoiser(self.condition(), 0.0)(self.noisy(), torch.tensor([2.0]))
        assert len(seen) == 1, f"without guidance the network must be called once, through `model.net`; got {len(seen)}"

    def test_evaluations_may_be_made_elsewhere(self, tmp_path: Path) -> None:
        model = self.loaded(tmp_path)
        seen: list[int] = []
        model.net.register_forward_hook(lambda *_: seen.append(1))
        within: list[int] = []

        def backwards(*branches: Callable[[], Tensor]) -> Sequence[Tensor]:
            before = len(seen)
            found = [branch() for branch in branches[::-1]]
            within.append(len(seen) - before)
            assert within[-1] == len(branches), "each function given to `evaluate` must call the network once"
            return found[::-1]

        for guidance, count in ((0.0, 1), (3.0, 2)):
            with torch.no_grad():
                expected = model.denoiser(self.condition(), guidance)(self.noisy(), torch.tensor([2.0]))
                seen.clear()
                found = model.denoiser(self.condition(), guidance, backwards)(self.noisy(), torch.tensor([2.0]))
            assert within.pop() == count == len(seen), "the network must be called within `evaluate` alone"
            assert torch.equal(found, expected), "a function given to `evaluate` must not depend on another"

    def test_impose(self, tmp_path: Path) -> None:
        denoise, x_BCTHW = self.loaded(tmp_path).denoiser(self.condition(), 0.0), self.noisy()
        imposed = denoise.impose(x_BCTHW, torch.tensor([2.0]))
        assert torch.equal(imposed[:, :, 1:], x_BCTHW[:, :, 1:]), "only given frames may be replaced"
        assert torch.isfinite(imposed).all(), "the state with the given frames in place must be finite"

    def noisy(self) -> Tensor:
        """A state at sigma 2."""
        return 2 * torch.randn((1, *self.latents), generator=torch.Generator().manual_seed(5))


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """A generator a sample."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]
