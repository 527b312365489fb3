"""Rough pictures of unfinished videos."""

import numpy as np
import torch
from PIL import Image

from cosmos_forge.generation.preview import Preview, fit, paint


def test_colours_that_are_linear_in_the_latents_are_found_exactly():
    chance = torch.Generator().manual_seed(0)
    latents, mix = torch.randn(16, 3, 12, 20, generator=chance), 0.2 * torch.randn(3, 16, generator=chance)
    video = torch.einsum("rc,cthw->rthw", mix, latents) + 0.1
    large = video[:, 0].repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
    colours = fit(large, latents[:, 0])
    torch.testing.assert_close(colours, torch.cat([mix.T, torch.full((1, 3), 0.1)]), atol=1e-5, rtol=1e-4)
    strip = np.asarray(paint(latents, colours))
    assert strip.shape == (72, 360, 3)  # three frames, six times as large
    last = ((video[:, 2].clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0).numpy()
    assert np.abs(strip[3::6, 240 + 3 :: 6].astype(float) - last).mean() < 12  # resizing blurs a little


def test_channels_that_say_the_same_are_no_hindrance():
    """As those of a still frame may: the picture is found all the same, each time."""
    chance = torch.Generator().manual_seed(0)
    for _ in range(20):
        few = torch.randn(3, 32, 32, generator=chance)
        latents, mix = few.repeat_interleave(5, dim=0), 0.2 * torch.randn(3, 3, generator=chance)
        pixels = torch.einsum("rc,chw->rhw", mix, few)
        torch.full((64,), 7, dtype=torch.int32)  # what uninitialised memory may hold
        colours = fit(pixels, latents)
        found = torch.einsum("cr,chw->rhw", colours[:-1], latents) + colours[-1][:, None, None]
        torch.testing.assert_close(found, pixels, atol=1e-4, rtol=0)


def test_it_shows_the_latest_estimate_when_it_is_time(tmp_path):
    class Grey:
        def __call__(self, x, sigma):
            return torch.zeros_like(x)

        def impose(self, x, sigma):
            return x + 1

    ramp = torch.linspace(-1, 1, 64).view(1, 8, 8)
    known = ramp.expand(16, 8, 8)[None, :, None]
    frames = ramp.expand(3, 8, 8)[:, None]
    preview = Preview(tmp_path / "preview.png", lambda: frames, known, unit=0.5, seconds=0.0)
    denoise = preview.watch(Grey())
    assert not preview.step(), "nothing is known yet"
    assert denoise(torch.ones(1, 16, 3, 8, 8), torch.ones(1)).sum() == 0
    assert denoise.impose(torch.ones(1), torch.ones(1)).item() == 2
    assert preview.step()
    picture = np.asarray(Image.open(tmp_path / "preview.png"))
    assert picture.shape[1] == 3 * 120 and np.abs(picture.astype(int) - 127.5).max() <= 1
    preview.seconds = 1000.0
    assert not preview.step()
