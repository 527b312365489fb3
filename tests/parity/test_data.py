"""What the reference makes of pictures and videos: given frames of inference, clips of training, latent frames.

Recorded cases name their file: enclosed ones lie beside them, those of the reference's repository in `data/inputs`
beside the recordings. Where a file is not at hand the case is skipped. Resized pixels are compared exactly on the
decoded frames that a case holds, else within the two levels by which decoders differ.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cosmos_forge.files import sha256
from cosmos_forge.frames import probe, resize
from cosmos_forge.generation.jobs import to_given_pixels
from cosmos_forge.video import read_last
from forge_cosmos1.tokenizer_options import TokenizerOptions
from forge_video_folder.plugin import VideoFolderOptions
from forge_video_folder.reader import read_frames

LEVEL = 1 / 128
ROUNDING = 2**-9  # of a number below 1 in bfloat16


def source(case) -> Path:
    """The case's file."""
    config = case.record["config"]
    beside = case.path.parent / config["source"]
    path = beside if beside.exists() else case.path.parents[2] / "data" / "inputs" / Path(config["source"]).name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    assert sha256(path) == config["source_sha256"]
    return path


def compare(check, what: str, ours_CTHW: Tensor, recorded: dict, tolerance: float) -> None:
    """With means over everything, frames and channels, and with patches at recorded places. Of the means of millions of
    numbers much less is allowed than of one."""
    ours_CTHW = ours_CTHW.double()
    assert list(ours_CTHW.shape) == recorded["shape"]
    check(f"{what}: mean", ours_CTHW.mean(), recorded["mean"], tolerance / 4)
    check(f"{what}: means of frames", ours_CTHW.mean((0, 2, 3)), recorded["mean_per_frame"], tolerance / 4)
    check(f"{what}: means of channels", ours_CTHW.mean((1, 2, 3)), recorded["mean_per_channel"], tolerance / 4)
    for place, patch in recorded["patches_4x4"].items():
        frame, y, x = map(int, re.findall(r"\d+", place))
        check(f"{what}: {place}", ours_CTHW[:, frame, y : y + 4, x : x + 4], patch, tolerance)


@pytest.mark.golden("j_data/*condition*")
def test_given_frames(case, check):
    config, recorded = case.record["config"], case.record["scalars"]
    size, count = (config["height"], config["width"]), config["num_input_frames"]
    path = source(case)
    whole_THWC = read_last(path, 10_000)
    if case.record.get("file"):
        decoded = case.tensors["in/decoded_frames"]
        check("decoded", torch.from_numpy(np.ascontiguousarray(whole_THWC)), decoded, 2)
        check("frames", to_given_pixels(decoded.numpy(), *size)[None], case.tensors["out/frames"].float(), 0)
        given = to_given_pixels(decoded.numpy()[-count:], *size)[None]
        check("given", given, case.tensors["out/tokenizer_input"][:, :, :count].float(), 0)
    compare(check, "all frames", to_given_pixels(whole_THWC, *size), recorded["frames_read"], 2 * LEVEL + ROUNDING)

    given_CTHW = to_given_pixels(read_last(path, count), *size)
    shown = recorded["tokenizer_input"]
    assert shown["nonzero_frames"] == list(range(given_CTHW.shape[1]))
    first = torch.nn.functional.pad(given_CTHW, (0, 0, 0, 0, 0, shown["first_frames"]["shape"][1] - count))
    compare(check, "given frames", first, shown["first_frames"], 2 * LEVEL + ROUNDING)
    check("their sum", given_CTHW.double().sum() / given_CTHW.numel(), shown["sum"] / given_CTHW.numel(), LEVEL / 4)


@pytest.mark.golden("j_data/*dataset*")
def test_clips(case, check):
    """Ours are as many, cut at the same frames and resized the same way; on the recording's own frames to the bit."""
    config, recorded, path = case.record["config"], case.record["scalars"], source(case)
    height, width = config["video_size"]
    options = VideoFolderOptions(
        path="clips",
        num_frames=config["num_frames"],
        height=height,
        width=width,
        frame_stride=config["sequence_interval"],
        start_frame_interval=config["start_frame_interval"],
    )
    _, starts = options.places(len(probe(path).times), height, width)
    check("number of clips", len(starts), config["number_of_samples"], 0)
    first = starts[config["sample_index"]]
    frames = range(first, first + options.span(options.num_frames), options.frame_stride)
    check("frames", list(frames), config["frame_ids"], 0)
    decoded_THWC = read_frames(path, frames)
    if case.record.get("file"):
        theirs_TCHW = case.tensors["in/decoded_frames"].movedim(3, 1)
        check("decoded", torch.from_numpy(decoded_THWC).movedim(3, 1), theirs_TCHW, 2)
        clip_CTHW = resize(theirs_TCHW, *config["video_size"], crop=False).movedim(1, 0)
        check("clip", clip_CTHW, case.tensors["out/video"], 0)
    decoded_TCHW = torch.from_numpy(decoded_THWC).movedim(3, 1)
    compare(check, "decoded", decoded_TCHW.movedim(1, 0), recorded["decoded"], 2)
    compare(check, "clip", resize(decoded_TCHW, *config["video_size"], crop=False).movedim(1, 0), recorded["video"], 2)


@pytest.mark.golden("j_data/*latent_frames*")
def test_latent_frames(case, check):
    """Of given frames, whichever number of them has latents of its own."""
    scalars = case.record["scalars"]

    def latent_frames(frames: int) -> int:
        return TokenizerOptions().latent_shape(frames, 16, 16)[1]

    for frames, latents in scalars["num_latent_frames"].items():
        check(f"{frames} frames", latent_frames(int(frames)), latents, 0)
    for latents, frames in scalars["num_pixel_frames_for_latents"].items():
        check(f"{latents} latents", latent_frames(frames), int(latents), 0)
    for frames in scalars["not_of_the_form_8k_plus_1"]:
        with pytest.raises(ValueError, match="8k\\+1"):
            latent_frames(int(frames))
