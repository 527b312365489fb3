"""AdamW whose moments take a byte a number: float8 with a scale for every 256 numbers of a row.

Blockwise scales as in Dettmers et al. 2021 (arXiv 2110.02861); float8 in the format e4m3 as in FP8-LM (arXiv
2310.18313). Of the second moment the root is kept, which halves its range in powers of two. Rounding is stochastic:
an average that moves by a hundredth a step would never leave a grid of sixteenths.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

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
    scalar on the device; unless it is 0 the step changes nothing.
    """

    found_inf: Tensor | None = None

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, betas: tuple[float, float], eps: float, weight_decay: float
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

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
                    _update(local(parameter), local(parameter.grad), _locals(state), group, good.bool())


def _update(weight: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any], good: Tensor) -> None:
    """AdamW of one local tensor, in float32; leaves all as it was where `good` is false."""
    if not weight.numel():
        return
    small = "exp_avg_sq" in state
    first = state["exp_avg"] if small else unpack(state["exp_avg"], state["exp_avg_scale"])
    second = state["exp_avg_sq"] if small else unpack(state["exp_avg_sq_root"], state["exp_avg_sq_root_scale"]).square()
    beta1, beta2 = group["betas"]
    first, second = first.lerp(gradient, 1 - beta1), second.lerp(gradient.square(), 1 - beta2)
    root = (second / (1 - beta2 ** state["step"])).sqrt_().add_(group["eps"])
    decayed = weight * (1 - group["lr"] * group["weight_decay"])
    changed = [decayed.addcdiv_(first / (1 - beta1 ** state["step"]), root, value=-group["lr"])]
    changed += [first, second] if small else [*pack(first), *pack(second.sqrt_(), positive=True)]
    for old, new in zip([weight, *(state[name] for name in state if name != "step")], changed, strict=True):
        if old.dtype == torch.float8_e4m3fn:  # torch.where takes bytes, not float8
            old, new = old.view(torch.uint8), new.contiguous().view(torch.uint8)
        old.copy_(torch.where(good, new, old))


def pack(values: Tensor, positive: bool = False) -> tuple[Tensor, Tensor]:
    """Float8 and scales of float32 values: values = float8 * scale, rounded stochastically, right in the mean.

    positive: what is not 0 does not become 0, so that nobody divides by it; it is rounded up.
    """
    blocks = _blocks(values)
    scale = blocks.abs().amax(dim=-1, keepdim=True) / LARGEST
    scaled = blocks / torch.where(scale > 0, scale, 1)
    # e4m3 has 3 of float32's 23 bits of fraction: a random number is added to the 20 others, then they are cut off.
    bits = scaled.view(torch.int32)
    bits = bits + torch.randint_like(bits, 1 << 20)
    rounded = (bits & -(1 << 20)).view(torch.float32).clamp_(-LARGEST, LARGEST)
    if positive:
        rounded = torch.where(scaled > 0, rounded.clamp(min=SMALLEST), rounded)
    packed = rounded.to(torch.float8_e4m3fn).flatten(-2)[..., : values.shape[-1]]
    return packed, scale.squeeze(-1)


def unpack(packed: Tensor, scale: Tensor) -> Tensor:
    """The float32 values that `pack` was given, to a sixteenth."""
    return (_blocks(packed.float()) * scale[..., None]).flatten(-2)[..., : packed.shape[-1]]


def _blocks(values: Tensor) -> Tensor:
    """Rows cut into blocks, the last one filled up with zeros."""
    return nn.functional.pad(values, (0, -values.shape[-1] % BLOCK)).unflatten(-1, (-1, BLOCK))


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


def _locals(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: local(value) for name, value in state.items()}
