"""Names of the network's tensors: as in the reference's `model.pt`, and as in diffusers' `CosmosTransformer3DModel`.

Nothing is transposed or split between the two. diffusers has no `logvar.*` and no `pos_embedder.seq`.
"""

from __future__ import annotations

import re

OUTSIDE_BLOCKS = {
    "x_embedder.proj.1": "patch_embed.proj",
    "extra_pos_embedder": "learnable_pos_embed",
    "t_embedder.1.linear_1": "time_embed.t_embedder.linear_1",
    "t_embedder.1.linear_2": "time_embed.t_embedder.linear_2",
    "affline_norm": "time_embed.norm",
    "final_layer.adaLN_modulation.1": "norm_out.linear_1",
    "final_layer.adaLN_modulation.2": "norm_out.linear_2",
    "final_layer.linear": "proj_out",
}
IN_A_BLOCK = {
    "blocks.2.block.layer1": "ff.net.0.proj",
    "blocks.2.block.layer2": "ff.net.2",
    **{f"blocks.{part}.block.attn.to_{x}.0": f"attn{part + 1}.to_{x}" for part in (0, 1) for x in "qkv"},
    **{f"blocks.{part}.block.attn.to_{x}.1": f"attn{part + 1}.norm_{x}" for part in (0, 1) for x in "qk"},
    **{f"blocks.{part}.block.attn.to_out.0": f"attn{part + 1}.to_out.0" for part in (0, 1)},
    **{f"blocks.{part}.adaLN_modulation.{i}": f"norm{part + 1}.linear_{i}" for part in range(3) for i in (1, 2)},
}
OUTSIDE_THERE = {theirs: ours for ours, theirs in OUTSIDE_BLOCKS.items()}
IN_A_BLOCK_THERE = {theirs: ours for ours, theirs in IN_A_BLOCK.items()}

OURS = re.compile(r"net\.(?:blocks\.block(\d+)\.)?(.+)\.(\w+)")
THEIRS = re.compile(r"(?:transformer_blocks\.(\d+)\.)?(.+)\.(\w+)")


def to_diffusers(name: str) -> str | None:
    """diffusers' name of a tensor; None where it has none."""
    match = OURS.fullmatch(name)
    block, module, leaf = match.groups() if match else (None, "", "")
    theirs = (IN_A_BLOCK if block else OUTSIDE_BLOCKS).get(module)
    if theirs is None:
        return None
    return f"transformer_blocks.{block}.{theirs}.{leaf}" if block else f"{theirs}.{leaf}"


def from_diffusers(name: str) -> str:
    """Our name of a tensor of diffusers'; the same name where it is none of those."""
    match = THEIRS.fullmatch(name)
    block, module, leaf = match.groups() if match else (None, "", "")
    ours = (IN_A_BLOCK_THERE if block else OUTSIDE_THERE).get(module)
    if ours is None:
        return name
    return f"net.blocks.block{block}.{ours}.{leaf}" if block else f"net.{ours}.{leaf}"
