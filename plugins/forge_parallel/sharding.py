"""Weights in pieces, and weights computed with in a lower precision than they are kept in: torch's FSDP2."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh

from cosmos_forge import Context


def shard_weights(net: nn.Module, blocks: Sequence[str], context: Context, share: int) -> nn.Module:
    """`net`, its parameters replaced by pieces that `share` processes have together; as many copies as there is room.

    Each block is one group, all that is left another; a group's weights are whole, and in the context's dtype, only
    while it computes. The pieces, and so the optimizer's weights, keep the dtype they have, and gradients are averaged
    in float32. Inputs of the network are not cast: noise levels and times need their digits, and networks cast what
    they compute on. With a share of 1, frozen weights that have the right dtype already are left as they are.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard  # takes half a second, which others are spared

    copies = distributed.get_world_size() // share
    mesh = init_device_mesh(context.device.type, (copies, share), mesh_dim_names=("copy", "piece"))
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    if context.dtype != torch.float32:
        policy = MixedPrecisionPolicy(context.dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    ready = {each for each in net.parameters() if not each.requires_grad and each.dtype == context.dtype}
    for module in (*(net.get_submodule(name) for name in blocks), net):
        fully_shard(
            module,
            mesh=mesh if copies > 1 else mesh["piece"],
            mp_policy=policy,
            ignored_params=ready if share == 1 else None,
        )
    return net


def forget_whole(net: nn.Module) -> None:
    """Frees whole weights that a forward pass left for its backward pass; the next one puts them together anew."""
    for module in net.modules():
        if reshard := getattr(module, "reshard", None):  # FSDP2's
            reshard()


def casts(net: nn.Module, context: Context) -> bool:
    """Whether weights are kept in another dtype than they are to be computed with."""
    return any(parameter.requires_grad and parameter.dtype != context.dtype for parameter in net.parameters())
