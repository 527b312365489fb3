"""One sample's tokens spread over several processes, with exact attention over all of them.

Between attentions every process works on its part of the tokens; for an attention they exchange tokens for heads, so
that each has all tokens of its part of the heads, and exchange back afterwards (Jacobs et al. 2023, DeepSpeed-Ulysses,
arXiv 2309.14509). Upstream (`training/networks/general_dit.py`) cuts between latent frames and lets keys and values go
round in a ring.

Shape suffixes: B batch, N heads, L tokens, E width of a head, P processes, S q, k and v.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, distributed
from torch.distributed._functional_collectives import all_to_all_single_autograd

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]


class SharedSequence:
    """`kinds.SharedSequence` for the processes of a group. Where tokens cannot be shared out evenly, zeros fill up the
    last part, and attention leaves them out."""

    def __init__(self, group: distributed.ProcessGroup) -> None:
        self.group, self.parts, self.part = group, group.size(), group.rank()
        self.length = 0  # tokens of the sample at hand, without padding

    def split(self, x: Tensor, dim: int) -> Tensor:
        """See `kinds.SharedSequence`; notes the number of tokens."""
        self.length = x.shape[dim]
        share = -(-self.length // self.parts)
        part = x.narrow(dim, min(self.part * share, self.length), self._here(share))
        return _pad(part, dim, share).contiguous()

    def join(self, x: Tensor, dim: int) -> Tensor:
        """See `kinds.SharedSequence`."""
        return _Join.apply(x, dim, self.group).narrow(dim, 0, self.length)

    def attention(self, kernel: Kernel) -> Kernel:
        """See `kinds.SharedSequence`."""

        def attend(q_BNLE: Tensor, k_BNLE: Tensor, v_BNLE: Tensor) -> Tensor:
            q, k, v = self._to_heads(torch.stack((q_BNLE, k_BNLE, v_BNLE)))
            padding = q.shape[2] - self.length
            out = kernel(*(each.narrow(2, 0, self.length) for each in (q, k, v)))
            return self._to_tokens(_pad(out, 2, self.length + padding))

        return attend

    def _here(self, share: int) -> int:
        """Tokens of this part that are no padding."""
        return max(0, min(share, self.length - self.part * share))

    def _to_heads(self, x_SBNLE: Tensor) -> Tensor:
        """All heads of a part of the tokens -> a part of the heads of all tokens."""
        x = rearrange(x_SBNLE, "S B (P N) L E -> P S B N L E", P=self.parts).contiguous()
        return rearrange(self._exchange(x), "P S B N L E -> S B N (P L) E")

    def _to_tokens(self, x_BNLE: Tensor) -> Tensor:
        """Back again."""
        x = rearrange(x_BNLE, "B N (P L) E -> P B N L E", P=self.parts).contiguous()
        return rearrange(self._exchange(x), "P B N L E -> B (P N) L E")

    def _exchange(self, x: Tensor) -> Tensor:
        """x[i] goes to process i; what comes from process i is the result's [i]."""
        return all_to_all_single_autograd(x, None, None, self.group)


class _Join(torch.autograd.Function):
    """All parts, one after the other.

    Every process goes on to compute the whole loss from them, and gradients are meant over all processes, so the
    gradient of a part is that of the sum of all losses: what this process's loss says, times the number of processes.
    """

    @staticmethod
    def forward(ctx, x: Tensor, dim: int, group: distributed.ProcessGroup) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.dim, ctx.parts, ctx.part = dim, group.size(), group.rank()
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(ctx.parts)]
        distributed.all_gather(parts, x.contiguous(), group=group)
        return torch.cat(parts, dim)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def, override]
        return gradient.chunk(ctx.parts, ctx.dim)[ctx.part] * ctx.parts, None, None


def _pad(x: Tensor, dim: int, length: int) -> Tensor:
    """x with zeros behind, `length` long along `dim`."""
    missing = length - x.shape[dim]
    return F.pad(x, [0, 0] * (x.ndim - 1 - dim) + [0, missing]) if missing else x
