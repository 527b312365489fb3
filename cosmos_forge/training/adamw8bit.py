"""AdamW whose moments take a byte a number: float8 with a scale for every 256 numbers of a row.

Blockwise scales as in Dettmers et al. 2021 (arXiv 2110.02861); float8 in the format e4m3 as in FP8-LM (arXiv
2310.18313). Of the second moment the root is kept, which halves its range in powers of two. Rounding is stochastic:
an average that moves by a hundredth a step would never leave a grid of sixteenths.

Where blocks of a network are compiled, so is the update: some fifty passes over the numbers become one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cosmos_forge.training.pieces import in_pieces, local, place_of

BLOCK = 256
SMALL = 4096  # parameters with fewer numbers keep float32 moments
LARGEST, SMALLEST = 448.0, 2.0**-9  # of e4m3


class AdamW8bit(torch.optim.Optimizer):
    """AdamW (Loshchilov and Hutter 2017, arXiv 1711.05101) for float32 parameters, plain or DTensors.

    State of a matrix: `exp_avg` and `exp_avg_sq_root`, float8 of its shape, each with a `.._scale`, float32, one number
    a block of a row; all sharded as the parameter is, so that any number of processes can read them. `found_inf`: a
    scalar on the device; unless it is 0 the step changes nothing. compiled: whether the update of matrices is compiled;
    it then draws other random numbers.
    """

    found_inf: Tensor | None = None

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        compiled: bool = False,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.update: Callable[..., None] = _compiled() if compiled else _update

    def start(self, parameter: nn.Parameter) -> dict[str, Any]:
        """The state before the first step, which is also what a checkpoint's is read into."""
        step = torch.zeros((), device=parameter.device)
        if parameter.ndim < 2 or parameter.numel() < SMALL:
            zeros = torch.zeros_like(parameter, requires_grad=False)
            return {"step": step, "exp_avg": zeros, "exp_avg_sq": zeros.clone()}
        scales = (*parameter.shape[:-1], -(-parameter.shape[-1] // BLOCK))
        return {
            "step": step,
            "exp_avg": _zeros_beside(parameter, parameter.shape, torch.float8_e4m3fn),
            "exp_avg_scale": _zeros_beside(parameter, scales, torch.float32),
            "exp_avg_sq_root": _zeros_beside(parameter, parameter.shape, torch.float8_e4m3fn),
            "exp_avg_sq_root_scale": _zeros_beside(parameter, scales, torch.float32),
        }

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step with the gradients there are; never waits for the device."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state[parameter] = self.state[parameter] or self.start(parameter)
                    good = torch.ones((), device=parameter.device) if self.found_inf is None else self.found_inf == 0
                    state["step"] += good
                    pieces = {name: local(value) for name, value in state.items()}
                    factors = Factors.of(group, state["step"], good.bool())
                    self._advance(local(parameter).detach(), local(parameter.grad), pieces, factors)

    def _advance(self, weight: Tensor, gradient: Tensor, state: dict[str, Tensor], factors: Factors) -> None:
        """In place; what this process holds of a parameter, which may be nothing."""
        if "exp_avg_sq" in state:
            small = weight, state["exp_avg"], state["exp_avg_sq"]
            _replace(small, _adamw(gradient, *small, factors), factors.good)
        elif weight.numel():
            whole = weight, state["exp_avg"], state["exp_avg_sq_root"]
            rows = [_rows(each) for each in whole]
            scales = [state[name].view(-1, 1) for name in ("exp_avg_scale", "exp_avg_sq_root_scale")]
            self.update(_rows(gradient), *rows, *scales, factors)
            for each, row in zip(whole, rows, strict=True):
                if row.data_ptr() != each.data_ptr():  # it was filled up
                    each.copy_(row.view(*each.shape[:-1], -1)[..., : each.shape[-1]])


class Factors(NamedTuple):
    """What a step does to all numbers of a parameter alike. Scalars that change from step to step are tensors, for
    compiled code to stay as it is.

    keep: what a weight keeps of itself. rate: the learning rate by the first moment's bias. bias: the second one's.
    good: whether anything may change, bool.
    """

    beta1: float
    beta2: float
    eps: float
    keep: Tensor
    rate: Tensor
    bias: Tensor
    good: Tensor

    @classmethod
    def of(cls, group: dict[str, Any], step: Tensor, good: Tensor) -> Factors:
        """group: of an optimizer's `param_groups`. step: the count of this one."""
        lr, (beta1, beta2) = group["lr"], group["betas"]
        keep = torch.full_like(step, 1 - lr * group["weight_decay"])
        return cls(beta1, beta2, group["eps"], keep, lr / (1 - beta1**step), 1 - beta2**step, good)


def _adamw(
    gradient: Tensor, weight: Tensor, first: Tensor, second: Tensor, factors: Factors
) -> tuple[Tensor, Tensor, Tensor]:
    """Weight and moments after a step, all in float32."""
    first = first.lerp(gradient, 1 - factors.beta1)
    second = second.lerp(gradient.square(), 1 - factors.beta2)
    root = (second / factors.bias).sqrt() + factors.eps
    return weight * factors.keep - factors.rate * first / root, first, second


def _update(
    gradient: Tensor,
    weight: Tensor,
    first: Tensor,
    root: Tensor,
    first_scale: Tensor,
    root_scale: Tensor,
    factors: Factors,
) -> None:
    """A step in place, each row a block. first: the first moment, float8. root: the second one's, likewise."""
    exact = first.float() * first_scale, (root.float() * root_scale).square()
    new_weight, new_first, new_second = _adamw(gradient, weight, *exact, factors)
    packed, packed_root = _pack_rows(new_first), _pack_rows(new_second.sqrt(), positive=True)
    old = weight, first, first_scale, root, root_scale
    _replace(old, (new_weight, *packed, *packed_root), factors.good)


def _replace(old: Iterable[Tensor], new: Iterable[Tensor], good: Tensor) -> None:
    """In place, all or nothing, as the device finds `good`."""
    for before, after in zip(old, new, strict=True):
        if before.dtype == torch.float8_e4m3fn:  # torch.where takes bytes, not float8
            before, after = before.view(torch.uint8), after.view(torch.uint8)
        before.copy_(torch.where(good, after, before))


@cache
def _compiled() -> Callable[..., None]:
    """`_update`, compiled once for any number of rows."""
    from torch._dynamo import maybe_mark_dynamic  # takes a second, which others are spared

    update: Callable[..., None] = torch.compile(_update)

    def advance(*of_rows: Any) -> None:
        *tensors, factors = of_rows
        for each in tensors:
            maybe_mark_dynamic(each, 0)
        update(*tensors, factors)

    return advance


def pack(values: Tensor, positive: bool = False) -> tuple[Tensor, Tensor]:
    """Float8 and scales of float32 values: values = float8 * scale, rounded stochastically, right in the mean.

    positive: what is not 0 does not become 0, so that nobody divides by it; it is rounded up.
    """
    rows, scale = _pack_rows(_rows(values), positive)
    packed = rows.view(*values.shape[:-1], -1)[..., : values.shape[-1]]
    return packed, scale.view(*values.shape[:-1], -1)


def _pack_rows(rows: Tensor, positive: bool = False) -> tuple[Tensor, Tensor]:
    """As `pack`, each row a block."""
    scale = rows.abs().amax(dim=-1, keepdim=True) / LARGEST
    scaled = rows / torch.where(scale > 0, scale, 1)
    # e4m3 has 3 of float32's 23 bits of fraction: a random number is added to the 20 others, then they are cut off.
    bits = scaled.view(torch.int32)
    bits = bits + torch.randint_like(bits, 1 << 20)
    rounded = (bits & -(1 << 20)).view(torch.float32).clamp_(-LARGEST, LARGEST)
    if positive:
        rounded = torch.where(scaled > 0, rounded.clamp(min=SMALLEST), rounded)
    return rounded.to(torch.float8_e4m3fn), scale


def unpack(packed: Tensor, scale: Tensor) -> Tensor:
    """The float32 values that `pack` was given, to a sixteenth."""
    rows = _rows(packed).float() * scale.reshape(-1, 1)
    return rows.view(*packed.shape[:-1], -1)[..., : packed.shape[-1]]


def _rows(values: Tensor) -> Tensor:
    """Its rows cut into blocks, each of which is a row then; the last of each is filled up with zeros. A view where
    that can be."""
    if lacking := -values.shape[-1] % BLOCK:
        # torch pads bytes, not float8
        bytes_ = values.view(torch.uint8) if values.dtype == torch.float8_e4m3fn else values
        values = nn.functional.pad(bytes_, (0, lacking)).view(values.dtype)
    return values.reshape(-1, BLOCK)


def _zeros_beside(parameter: Tensor, shape: Iterable[int], dtype: torch.dtype) -> Tensor:
    """Zeros, in the pieces that `parameter` is in; its last axis must be whole."""
    shape = torch.Size(shape)
    if not in_pieces(parameter):
        return torch.zeros(shape, dtype=dtype, device=parameter.device)
    from torch.distributed.tensor import DTensor

    mesh, placements = parameter.device_mesh, parameter.placements
    piece, _ = place_of(shape, mesh, placements)
    zeros = torch.zeros(piece, dtype=dtype, device=parameter.device)
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(zeros, mesh, placements, run_check=False, shape=shape, stride=stride)
