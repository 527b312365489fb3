"""PSNR and SSIM against closed forms, symmetries, and a window computed by hand."""

import math

import pytest
import torch

from cosmos_forge.generation.judge import compare, psnr, ssim

C1, C2 = 6.5025, 58.5225  # (0.01 * 255)^2 and (0.03 * 255)^2, of the paper


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def grey(value: int, *shape: int) -> torch.Tensor:
    return torch.full(shape, value, dtype=torch.uint8)


def test_psnr_of_a_known_error():
    assert psnr(grey(100, 3, 2, 4, 4), grey(110, 3, 2, 4, 4)) == pytest.approx(20 * math.log10(255 / 10))
    assert psnr(noise(0, 3, 2, 4, 4), noise(0, 3, 2, 4, 4)) == pytest.approx(100)


def test_ssim_of_flat_pictures_is_that_of_their_lightness():
    """Variances are zero: (2 a b + C1) / (a^2 + b^2 + C1) is left."""
    for a, b in ((100, 110), (0, 255), (0, 0)):
        expected = (2 * a * b + C1) / (a * a + b * b + C1)
        assert ssim(grey(a, 3, 2, 16, 20), grey(b, 3, 2, 16, 20)) == pytest.approx(expected, abs=1e-6)


def test_ssim_is_1_for_the_same_symmetric_and_low_for_what_has_nothing_in_common():
    one, other = noise(1, 3, 4, 24, 32), noise(2, 3, 4, 24, 32)
    assert ssim(one, one) == 1
    assert ssim(one, other) == pytest.approx(ssim(other, one), abs=1e-6)
    assert abs(ssim(one, other)) < 0.05
    assert ssim(one, 255 - one) < -0.5
    turned = [each.transpose(2, 3).flip(2) for each in (one, other)]
    assert ssim(*turned) == pytest.approx(ssim(one, other), abs=1e-6)


def test_ssim_of_one_window_by_the_formula():
    """A picture of 11x11 pixels is one window: weights, moments and equation 13, written out in float64."""
    one, other = noise(3, 3, 1, 11, 11), noise(4, 3, 1, 11, 11) // 2
    offsets = torch.arange(-5, 6, dtype=torch.float64)
    weights = torch.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    weights /= weights.sum()
    expected = []
    for colour in range(3):
        x, y = one[colour, 0].double(), other[colour, 0].double()
        a, b = (weights * x).sum(), (weights * y).sum()
        v, w = (weights * (x - a) ** 2).sum(), (weights * (y - b) ** 2).sum()
        c = (weights * (x - a) * (y - b)).sum()
        expected.append(float((2 * a * b + C1) * (2 * c + C2) / ((a * a + b * b + C1) * (v + w + C2))))
    assert ssim(one, other) == pytest.approx(sum(expected) / 3, abs=1e-5)


def test_ssim_of_larger_pictures_is_the_mean_over_their_windows():
    one, other = noise(5, 3, 2, 12, 13), (noise(5, 3, 2, 12, 13).float() * 0.7 + 20).to(torch.uint8)
    windows = [
        ssim(*(each[:, :, top : top + 11, left : left + 11] for each in (one, other)))
        for top in range(2)
        for left in range(3)
    ]
    assert ssim(one, other) == pytest.approx(sum(windows) / 6, abs=1e-5)


def test_pictures_smaller_than_a_window_are_refused():
    with pytest.raises(ValueError, match="11x11"):
        ssim(grey(0, 3, 1, 10, 16), grey(0, 3, 1, 10, 16))


def test_only_what_follows_the_given_frames_counts():
    truth = noise(6, 3, 5, 16, 16)
    made = truth.clone()
    made[:, :2] = 0
    found = compare(made, truth, given=2)
    assert found["psnr_db"] == pytest.approx(100) and found["ssim"] == 1
    copied = truth[:, 1:2].expand(3, 3, 16, 16)
    assert found["psnr_copy_db"] == pytest.approx(psnr(copied, truth[:, 2:]))
    assert found["ssim_copy"] == pytest.approx(ssim(copied, truth[:, 2:]))
