"""The tokenizer against closed forms and its promised quality, the balls against mechanics, words against a hash."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from cosmos_forge.testing import DatasetContract, LatentTokenizerContract, TextEncoderContract, make_context
from forge_toy.balls import BOUNCE, RADIUS, Balls, caption, render, simulate, start
from forge_toy.physics import simulated, write_clip
from forge_toy.plugin import ToyPhysicsOptions, ToyTextOptions, ToyTokenizerOptions
from forge_toy.text import ToyTextEncoder, word_vector
from forge_toy.tokenizer import AXES_KC, ToyTokenizer, resampling

CPU = torch.device("cpu")


class TestPhysicsContract(DatasetContract):
    use = "toy-physics"
    options = {"clips": 3, "num_frames": 9, "height": 32, "width": 48}


class TestTokenizerContract(LatentTokenizerContract):
    use = "toy"
    psnr = 30.0


class TestTextContract(TextEncoderContract):
    use = "toy"


def ball(position, velocity, radius=0.1, box=(1.0, 1.0)) -> Balls:
    count = len(position)
    return Balls(
        np.array(position, float),
        np.array(velocity, float),
        np.full(count, radius),
        ("red", "blue")[:count],
        np.array(box),
    )


# The tokenizer


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> torch.Tensor:
    """Eight of the demo's clips as read back from their files, BCTHW in [-1, 1]."""
    dataset = simulated(ToyPhysicsOptions(clips=8), make_context(tmp_path_factory.mktemp("demo")))
    return torch.stack([dataset[i].frames_CTHW for i in range(8)]).float() / 127.5 - 1


def test_demo_clips_survive_the_round_trip(demo, tmp_path):
    tokenizer = ToyTokenizer(ToyTokenizerOptions(), make_context(tmp_path))
    error = (tokenizer.decode(tokenizer.encode(demo)) - demo).square().mean(dim=(1, 2, 3, 4))
    psnr = 10 * torch.log10(4 / error)
    assert psnr.mean() > 33 and psnr.min() > 30


def test_demo_latents_are_about_normalised(demo, tmp_path):
    latents = ToyTokenizer(ToyTokenizerOptions(), make_context(tmp_path)).encode(demo)
    for channels in latents.split((8, 4, 4), dim=1):
        assert abs(channels.mean()) < 0.2 and 0.8 < channels.std() < 1.2


def test_every_latent_but_the_first_comes_back_from_its_video(tmp_path):
    tokenizer = ToyTokenizer(ToyTokenizerOptions(), make_context(tmp_path))
    latents = torch.randn(2, 16, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    again = tokenizer.encode(tokenizer.decode(latents))
    assert torch.allclose(again[:, :, 1:], latents[:, :, 1:], atol=1e-4)


def test_a_still_video_has_equal_latents(tmp_path):
    tokenizer = ToyTokenizer(ToyTokenizerOptions(), make_context(tmp_path))
    still = torch.rand(1, 3, 1, 16, 24, generator=torch.Generator().manual_seed(0)).expand(-1, -1, 17, -1, -1)
    latents = tokenizer.encode(still)
    assert torch.allclose(latents, latents[:, :, :1].expand_as(latents), atol=1e-5)


def test_latents_are_in_the_contexts_dtype(tmp_path):
    tokenizer = ToyTokenizer(ToyTokenizerOptions(), make_context(tmp_path, dtype=torch.bfloat16))
    latents = tokenizer.encode(torch.zeros(1, 3, 9, 16, 16))
    assert latents.dtype == torch.bfloat16 and tokenizer.decode(latents).dtype == torch.float32


@pytest.mark.parametrize(("points", "kept"), [(8, 4), (8, 8), (64, 16), (208, 52)])
def test_resampling_takes_slow_cosines_to_slow_cosines(points, kept):
    matrix = resampling(points, kept, CPU).double()
    assert torch.allclose(matrix @ matrix.T, torch.eye(kept, dtype=torch.float64), atol=1e-5)
    for frequency in (0, 1, kept - 1):

        def cosine(n: int, frequency: int = frequency) -> torch.Tensor:
            return torch.cos(math.pi * frequency * (torch.arange(n).double() + 0.5) / n)

        assert torch.allclose(matrix @ cosine(points), math.sqrt(points / kept) * cosine(kept), atol=1e-4)


def test_colour_axes_are_orthonormal():
    axes = torch.tensor(AXES_KC)
    assert torch.allclose(axes @ axes.T, torch.eye(3), atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((16, 64, 64), "9 or 17 fits"),
        ((2, 64, 64), "1 or 9 fits"),
        ((17, 60, 64), "height.*56 or 64"),
        ((17, 64, 4), "8 or 16"),
    ],
)
def test_what_does_not_fit_is_told_what_would(shape, words):
    with pytest.raises(ValueError, match=words):
        ToyTokenizerOptions().latent_shape(*shape)


# The balls


def test_a_ball_falls_as_galileo_says():
    states = simulate(ball([[0.5, 0.2]], [[0.1, 0.0]]), 13, 24, (0.0, 1.5))
    assert states[12].position[0] == pytest.approx([0.5 + 0.1 * 0.5, 0.2 + 1.5 / 2 * 0.5**2], abs=3e-3)


def test_a_wall_turns_a_ball_round_and_slows_it():
    states = simulate(ball([[0.5, 0.5]], [[0.0, -0.8]]), 13, 12, (0.0, 0.0))
    assert states[-1].velocity[0] == pytest.approx([0.0, 0.8 * BOUNCE])


def test_balls_that_meet_keep_momentum_and_energy():
    before = ball([[0.3, 0.5], [0.7, 0.52]], [[0.5, 0.0], [-0.2, 0.1]])
    after = simulate(before, 6, 12, (0.0, 0.0))[-1]
    assert not np.allclose(after.velocity, before.velocity)
    assert after.velocity.sum(axis=0) == pytest.approx(before.velocity.sum(axis=0))
    assert (after.velocity**2).sum() == pytest.approx((before.velocity**2).sum())


@pytest.mark.parametrize("size", [(64, 64), (64, 128), (96, 32)])
def test_balls_stay_in_the_box(size):
    for index in range(10):
        balls = start(np.random.default_rng(index), *size)
        for state in simulate(balls, 33, 12, (3.0, -3.0)):
            assert (state.position >= balls.radius[:, None]).all()
            assert (state.position <= balls.box - balls.radius[:, None]).all()
        assert RADIUS[0] <= balls.radius.min() and balls.radius.max() <= RADIUS[1]


def test_a_picture_shows_the_ball_where_it_is():
    picture = render(ball([[0.25, 0.75]], [[0, 0]]), 64, 64)
    red = picture[..., 0].astype(float) - picture[0, 0, 0]
    y, x = np.mgrid[:64, :64] + 0.5
    assert ((red * x).sum() / red.sum(), (red * y).sum() / red.sum()) == pytest.approx((16, 48), abs=0.1)


def test_a_caption_says_what_is_seen():
    assert caption(ball([[0.2, 0.2], [0.8, 0.7]], [[0.5, 0.1], [-0.3, -0.3]])) == (
        "A red ball starts at the top left moving right; a blue ball starts at the bottom right moving up and left, "
        "in a dark box."
    )


# The clips as files


def test_only_missing_clips_are_written_and_always_the_same(tmp_path):
    options = ToyPhysicsOptions(clips=3, num_frames=9, path=str(tmp_path))

    def files() -> dict[Path, tuple[int, str]]:
        return {
            path: (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
            for path in tmp_path.glob("*/videos/*")
        }

    simulated(options, make_context(tmp_path))
    first = files()
    gone = sorted(first)[1]
    gone.unlink()
    simulated(options, make_context(tmp_path))
    second = files()
    assert first.keys() == second.keys() and len(first) == 3
    assert [path for path in first if first[path][0] != second[path][0]] == [gone]
    assert first[gone][1] == second[gone][1]


def test_the_same_frames_give_the_same_file_whatever_memory_held_before(tmp_path):
    options = ToyPhysicsOptions(clips=1, height=32, width=32)
    digests = set()
    for number in range(60):
        noise = [np.random.default_rng(number).bytes(30_000 * size) for size in range(1, 6)]
        write_clip(options, 3, tmp_path / "clip.mp4", tmp_path / "clip.txt")
        del noise
        digests.add(hashlib.sha256((tmp_path / "clip.mp4").read_bytes()).hexdigest())
    assert len(digests) == 1


def test_other_settings_other_folder(tmp_path):
    datasets = [
        simulated(ToyPhysicsOptions(clips=2, num_frames=9, path=str(tmp_path), gravity_x=g), make_context(tmp_path))
        for g in (0.0, 5.0)
    ]
    assert len(list(tmp_path.glob("*/settings.json"))) == 2
    assert [len(dataset) for dataset in datasets] == [2, 2]
    first, second = (dataset[0] for dataset in datasets)
    assert first.caption == second.caption  # the same scene to begin with,
    assert (first.frames_CTHW[:, -1] != second.frames_CTHW[:, -1]).any()  # and another end


# The text


def test_a_word_is_its_hash():
    # The first bytes of SHAKE-256("ball"), as `printf ball | openssl dgst -shake256 -xoflen 4` prints them.
    recorded = torch.tensor([0x63, 0xFF, 0x0D, 0x01]).float()
    assert torch.allclose(word_vector("ball", 64)[:4], (recorded - 127.5) / 73.9, atol=1e-3)


def test_case_and_punctuation_do_not_matter_but_order_does(tmp_path):
    encoder = ToyTextEncoder(ToyTextOptions(), make_context(tmp_path))
    plain, loud, turned = encoder.encode(["red ball", "RED, ball!", "ball red"]).tokens_BLD
    assert torch.equal(plain, loud)
    assert not torch.allclose(plain[:2], turned[[1, 0]])
    first, second = plain[0] - turned[1], turned[0] - plain[1]  # a word apart from its position
    assert torch.allclose(first, second, atol=1e-5)
