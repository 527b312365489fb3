"""One forward pass of the diffusion transformer, and of diffusers' on the same work: random weights, one clip.

    python benchmarks/forward.py --variant 7b-video2world --peer diffusers

Needs a GPU with 25 GiB for the default size, and for `--peer diffusers` that package. Times are medians by CUDA events.
`--device cpu --variant tiny --frames 9 --height 64 --width 64` tries the script itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measure import Row, attention_of, measure, print_machine, print_table
from torch import Tensor, nn

from cosmos_forge.compiling import compile_blocks
from cosmos_forge.testing.fakes import make_context
from forge_cosmos1.dit import VARIANTS, DiT, DiTConfig

TEXT_TOKENS = 512
FPS = 24

Forward = Callable[[], Tensor]


def main() -> None:
    options = parse()
    device, config = torch.device(options.device), VARIANTS[options.variant]
    torch.manual_seed(0)
    inputs = draw_inputs(config, options, device)
    _, _, frames, height, width = inputs[0].shape
    print_machine(device, *(["diffusers"] if options.peer == "diffusers" else []))
    size = f"{options.frames}x{options.height}x{options.width}"
    print(f"{options.variant}, {size}: {frames * height * width // 4} tokens, bfloat16, one sample, no gradients")

    rows: list[Row] = []
    peers: list[Row] = []
    with torch.no_grad():
        outputs: list[Tensor] = []
        for what, forward in ours(config, inputs, device):
            rows.append(measure(f"cosmos_forge, {what}", forward, device, options.repeats))
            outputs.append(forward().float())
            print(f"cosmos_forge, {what}: attention by torch's {attention_of(forward)}")
            del forward
        eager, compiled = outputs
        difference = (compiled - eager).norm() / eager.norm()
        print(f"outputs compiled and eager differ by {difference:.1e} of their norm")
        for what, forward in theirs(config, inputs, device) if options.peer == "diffusers" else ():
            peers.append(measure(f"diffusers, {what}", forward, device, options.repeats))
            del forward
    print_table(rows + peers, min(peers, key=lambda row: row.seconds, default=None))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="7b-video2world", choices=[*VARIANTS])
    parser.add_argument("--frames", type=int, default=121, help="pixel frames, 8k+1")
    parser.add_argument("--height", type=int, default=704, help="pixels, a multiple of 16")
    parser.add_argument("--width", type=int, default=1280, help="pixels, a multiple of 16")
    parser.add_argument("--peer", default="none", choices=["none", "diffusers"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda")
    return parser.parse_args()


def draw_inputs(config: DiTConfig, options: argparse.Namespace, device: torch.device) -> list[Tensor]:
    """x, c_noise, text, fps and, where the network takes one, condition mask: the arguments of `DiT.forward`."""
    size = (1 + (options.frames - 1) // 8, options.height // 8, options.width // 8)
    x = torch.randn(1, config.latent_channels, *size)
    text = torch.randn(1, TEXT_TOKENS, config.crossattn_emb_channels)
    masks = [torch.zeros(1, 1, *size)] if config.condition_mask else []
    drawn = [x, torch.tensor([0.1]), text, torch.tensor([float(FPS)]), *masks]
    return [each.to(device, torch.bfloat16) for each in drawn]


def ours(config: DiTConfig, inputs: list[Tensor], device: torch.device) -> Iterator[tuple[str, Forward]]:
    """The network as it is, then as a run has it on a GPU."""
    with torch.device("meta"):
        net = DiT(config)
    fill(net, device)
    yield "eager", partial(net, *inputs)
    names = [f"blocks.{name}" for name in net.blocks]
    compile_blocks(net, names, "blocks", make_context(Path(), device=device))
    yield "blocks compiled", partial(net, *inputs)


def theirs(config: DiTConfig, inputs: list[Tensor], device: torch.device) -> Iterator[tuple[str, Forward]]:
    """diffusers' network. It compiles whole in its documentation; blocks are tried as well."""
    x, c_noise, text, _, *masks = inputs
    channels = torch.cat([x, *masks, torch.zeros_like(x[:, :1])], dim=1)

    def forward(network: Callable[..., tuple[Tensor]]) -> Tensor:
        return network(channels, c_noise, text, fps=FPS, return_dict=False)[0]

    net = network_of_diffusers(config, device)
    yield "eager", partial(forward, net)
    torch.compiler.reset()
    yield "compiled whole", partial(forward, torch.compile(net))
    torch.compiler.reset()
    for block in net.transformer_blocks:
        block.compile()
    yield "blocks compiled", partial(forward, net)


def network_of_diffusers(config: DiTConfig, device: torch.device) -> Any:
    """diffusers' network of the same architecture, with random weights."""
    from diffusers import CosmosTransformer3DModel

    with torch.device("meta"):
        net: Any = CosmosTransformer3DModel(
            in_channels=config.in_channels,
            out_channels=config.latent_channels,
            num_attention_heads=config.num_heads,
            attention_head_dim=config.model_channels // config.num_heads,
            num_layers=config.num_blocks,
            mlp_ratio=config.mlp_ratio,
            text_embed_dim=config.crossattn_emb_channels,
            adaln_lora_dim=config.adaln_lora_dim,
            max_size=config.max_size,
            rope_scale=config.rope_ratio,
            concat_padding_mask=False,
        )
    fill(net, device)
    return net


def fill(net: nn.Module, device: torch.device) -> None:
    """Random bfloat16 weights on the device for a network on the meta device. Buffers are tables of 0, 1, 2, .. ."""
    net.to(torch.bfloat16).to_empty(device=device)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.02)
    for buffer in net.buffers():
        buffer.copy_(torch.arange(buffer.numel()))


if __name__ == "__main__":
    main()
