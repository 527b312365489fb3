"""Encoding and decoding one clip with the latent tokenizer, and with diffusers': random weights.

    python benchmarks/tokenizer.py --peer diffusers

Needs a GPU with 8 GiB for the default size, 32 GiB with the peer, which takes the clip in one piece. Times are medians
by CUDA events. `--device cpu --frames 9 --height 64 --width 64` tries the script itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from measure import Row, measure, print_machine, print_table
from torch import Tensor

from forge_cosmos1.tokenizer import POSITIONS_AT_ONCE
from forge_cosmos1.tokenizer_network import COMPRESSION, LATENT_CHANNELS, Autoencoder

Way = Callable[[Tensor], Tensor]


def main() -> None:
    options = parse()
    device = torch.device(options.device)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32  # not everything exists in bfloat16 on a CPU
    torch.manual_seed(0)
    makers = {"cosmos_forge": ours, "diffusers": theirs} if options.peer == "diffusers" else {"cosmos_forge": ours}
    print_machine(device, *list(makers)[1:])
    print(f"one clip of {options.frames}x{options.height}x{options.width}, {dtype}, no gradients")
    height, width = options.height // COMPRESSION, options.width // COMPRESSION
    frames = 1 + (options.frames - 1) // COMPRESSION
    video = torch.rand(1, 3, options.frames, options.height, options.width).to(device, dtype) * 2 - 1
    latents = torch.randn(1, LATENT_CHANNELS, frames, height, width).to(device, dtype)

    encoders: list[Row] = []
    decoders: list[Row] = []
    with torch.no_grad():
        for name, make in makers.items():
            encode, decode = make(device, dtype, height * width)
            encoders.append(measure(f"{name}, encode", partial(encode, video), device, options.repeats))
            decoders.append(measure(f"{name}, decode", partial(decode, latents), device, options.repeats))
            del encode, decode
    for rows in (encoders, decoders):
        print_table(rows, rows[1] if len(rows) > 1 else None)


def ours(device: torch.device, dtype: torch.dtype, positions: int) -> tuple[Way, Way]:
    """As `CosmosTokenizer` runs it: piece by piece. positions: latent pixels of a frame."""
    net = Autoencoder().to(device, dtype)
    at_once = max(1, POSITIONS_AT_ONCE // positions)
    return partial(net.encode, at_once=at_once), partial(net.decode, at_once=at_once)


def theirs(device: torch.device, dtype: torch.dtype, positions: int) -> tuple[Way, Way]:
    """diffusers' autoencoder of the same architecture, as it comes."""
    from diffusers import AutoencoderKLCosmos

    net: Any = AutoencoderKLCosmos().to(device, dtype)  # type: ignore[attr-defined]
    return lambda video: net.encode(video).latent_dist.mode(), lambda latents: net.decode(latents).sample


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=121, help="8k+1")
    parser.add_argument("--height", type=int, default=704, help="pixels, a multiple of 16")
    parser.add_argument("--width", type=int, default=1280, help="pixels, a multiple of 16")
    parser.add_argument("--peer", default="none", choices=["none", "diffusers"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda")
    return parser.parse_args()


if __name__ == "__main__":
    main()
