"""The contracts of datasets, latent tokenizers and text encoders.

Shape suffixes: B batch, C channels, T time, H height, W width.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cosmos_forge.testing.contract import Contract
from cosmos_forge.types import Rejected


class DatasetContract(Contract):
    """Options must name at least one clip that is usable."""

    kind = "dataset"

    def test_clips_are_as_promised(self, tmp_path: Path) -> None:
        dataset, options = self.make(tmp_path), self.read_options(tmp_path)
        assert len(dataset) > 0, "the test's options give no clip"
        clip = dataset[0]
        shape = (3, options.num_frames, options.height, options.width)
        assert tuple(clip.frames_CTHW.shape) == shape, (
            f"options promise frames of {shape}, got {clip.frames_CTHW.shape}"
        )
        assert clip.frames_CTHW.dtype == torch.uint8, "frames must be uint8, 0 to 255"
        assert clip.fps > 0, "fps must be positive"
        assert isinstance(clip.caption, str), "a caption must be text"

    def test_keys_are_unique_and_stable(self, tmp_path: Path) -> None:
        first, second = self.make(tmp_path), self.make(tmp_path)
        keys = [first.key(index) for index in range(len(first))]
        assert len(set(keys)) == len(keys), "keys must be unique"
        assert keys == [second.key(index) for index in range(len(second))], "keys must not change between two builds"
        assert first[0].key == keys[0], "`key(i)` must be the key of `[i]`"
        assert first[0].caption == first.caption(0), "`caption(i)` must be the caption of `[i]`"

    def test_same_index_same_clip(self, tmp_path: Path) -> None:
        dataset = self.make(tmp_path)
        last = len(dataset) - 1
        once, between, twice = dataset[last], dataset[0], dataset[last]
        assert between.key == dataset.key(0), f"[0] gave {between.key!r}, key(0) is {dataset.key(0)!r}"
        assert torch.equal(once.frames_CTHW, twice.frames_CTHW), "the same index must give the same frames"
        assert (once.caption, once.fps) == (twice.caption, twice.fps), "the same index must give the same clip"

    def test_fingerprints(self, tmp_path: Path) -> None:
        dataset, again = self.make(tmp_path), self.make(tmp_path)
        prints = [dataset.fingerprint(index) for index in range(len(dataset))]
        assert all(isinstance(each, str) and each for each in prints), "a fingerprint must be text"
        assert len(set(prints)) == len(prints), "clips that differ must have fingerprints that differ"
        assert prints == [again.fingerprint(index) for index in range(len(again))], "fingerprints must be stable"

    def test_is_picklable(self, tmp_path: Path) -> None:
        dataset = self.make(tmp_path)
        try:
            copy = pickle.loads(pickle.dumps(dataset))
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise AssertionError(f"a dataset must be picklable, so it cannot keep its context: {error}") from error
        assert torch.equal(copy[0].frames_CTHW, dataset[0].frames_CTHW), "a pickled dataset must give the same clips"

    def test_rejected_say_why(self, tmp_path: Path) -> None:
        wrong = [each for each in self.make(tmp_path).rejected if not (isinstance(each, Rejected) and each.reason)]
        assert not wrong, f"`rejected` must hold Rejected(key, reason), got {wrong}"


class LatentTokenizerContract(Contract):
    """num_frames, height, width: of the test video, in pixels. psnr: dB that the round trip must reach; None for random
    weights, which reach nothing."""

    kind = "latent_tokenizer"
    num_frames: int = 17
    height: int = 64
    width: int = 64
    psnr: float | None = 25.0

    def video(self) -> Tensor:
        """Soft waves that drift over a gradient: RGB in [-1, 1], (1, 3, T, H, W)."""
        time = torch.linspace(0, 1, self.num_frames).view(-1, 1, 1)
        rows, columns = torch.linspace(0, 3, self.height).view(1, -1, 1), torch.linspace(0, 3, self.width)
        channels = [torch.sin(rows + time * 2 + shift) * torch.cos(columns - time + shift) for shift in (0.0, 1.0, 2.0)]
        return (0.8 * torch.stack(channels))[None]

    def test_latents_have_the_promised_shape(self, tmp_path: Path) -> None:
        latents_BCTHW = self.make(tmp_path).encode(self.video())
        promised = self.read_options(tmp_path).latent_shape(self.num_frames, self.height, self.width)
        assert tuple(latents_BCTHW.shape) == (1, *promised), f"promised {promised}, got {tuple(latents_BCTHW.shape)}"
        assert latents_BCTHW.dtype == torch.float32, "latents must be in the context's dtype"
        assert torch.isfinite(latents_BCTHW).all(), "latents must be finite"

    def test_misfits_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"\S"):
            self.read_options(tmp_path).latent_shape(8, self.height, self.width)  # not 8k+1 frames
        with pytest.raises(ValueError, match=r"\S"):
            self.read_options(tmp_path).latent_shape(self.num_frames, self.height + 1, self.width)

    def test_round_trip(self, tmp_path: Path) -> None:
        tokenizer, video_BCTHW = self.make(tmp_path), self.video()
        decoded = tokenizer.decode(tokenizer.encode(video_BCTHW))
        assert decoded.shape == video_BCTHW.shape, f"{tuple(video_BCTHW.shape)} came back as {tuple(decoded.shape)}"
        assert decoded.dtype == torch.float32, "decoded video must be float32"
        if self.psnr is None:
            pytest.skip("`psnr` is None: the quality of the round trip is not checked")
        psnr = 10 * torch.log10(4 / ((decoded - video_BCTHW) ** 2).mean()).item()
        assert psnr >= self.psnr, f"the round trip reaches {psnr:.1f} dB, less than {self.psnr}"

    @pytest.mark.parametrize("frames", [1, 9])
    def test_is_causal(self, tmp_path: Path, frames: int) -> None:
        tokenizer, video_BCTHW = self.make(tmp_path), self.video()
        whole, part = tokenizer.encode(video_BCTHW), tokenizer.encode(video_BCTHW[:, :, :frames])
        start = whole[:, :, : part.shape[2]]
        far = (part - start).abs().max().item()
        assert far < 1e-4, (
            f"latents of the first {frames} frames must begin the clip's latents; they differ by {far:.2g}"
        )

    def test_samples_do_not_mix(self, tmp_path: Path) -> None:
        tokenizer, video_BCTHW = self.make(tmp_path), self.video()
        both = tokenizer.encode(torch.cat([video_BCTHW, -video_BCTHW]))
        far = (both[:1] - tokenizer.encode(video_BCTHW)).abs().max().item()
        assert far < 1e-4, f"a video's latents must not depend on its company; they differ by {far:.2g}"


class TextEncoderContract(Contract):
    """prompts: of different lengths. tolerance: between a prompt alone and in company."""

    kind = "text_encoder"
    prompts: tuple[str, ...] = ("a red ball", "two robots carry a box through a long corridor", "")
    tolerance: float = 1e-5

    def test_embeddings_have_the_promised_shape(self, tmp_path: Path) -> None:
        text, options = self.make(tmp_path).encode(self.prompts), self.read_options(tmp_path)
        shape = (len(self.prompts), options.max_tokens, options.width)
        assert tuple(text.tokens_BLD.shape) == shape, f"options promise {shape}, got {tuple(text.tokens_BLD.shape)}"
        assert text.tokens_BLD.dtype == torch.float32, f"tokens must be float32, got {text.tokens_BLD.dtype}"
        assert text.mask_BL.dtype == torch.bool, f"the mask must be bool, true on real tokens, got {text.mask_BL.dtype}"
        assert tuple(text.mask_BL.shape) == shape[:2], "there must be one mask entry a token"
        assert torch.isfinite(text.tokens_BLD).all(), "embeddings must be finite"

    def test_padding_is_zero(self, tmp_path: Path) -> None:
        text = self.make(tmp_path).encode(self.prompts)
        assert not text.mask_BL.all(), "no token is masked: is the mask that of real tokens?"
        assert (text.tokens_BLD[~text.mask_BL] == 0).all(), "embeddings must be exactly zero where masked"

    def test_alone_as_in_company(self, tmp_path: Path) -> None:
        encoder = self.make(tmp_path)
        company = encoder.encode(self.prompts)
        for index, prompt in enumerate(self.prompts):
            alone = encoder.encode([prompt])
            assert torch.equal(alone.mask_BL[0], company.mask_BL[index]), (
                f"the mask of {prompt!r} depends on its company"
            )
            far = (alone.tokens_BLD[0] - company.tokens_BLD[index]).abs().max().item()
            assert far <= self.tolerance, f"{prompt!r} differs alone and in company by {far:.2g}"

    def test_prompts_differ(self, tmp_path: Path) -> None:
        tokens_BLD = self.make(tmp_path).encode(self.prompts[:2]).tokens_BLD
        assert not torch.equal(tokens_BLD[0], tokens_BLD[1]), "different prompts must have different embeddings"

    def test_long_prompts_are_cut(self, tmp_path: Path) -> None:
        options = self.read_options(tmp_path)
        text = self.make(tmp_path).encode(["word " * (2 * options.max_tokens)])
        assert text.mask_BL.sum().item() == options.max_tokens, "a prompt that is too long must fill all tokens"
