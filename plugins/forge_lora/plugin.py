"""Registers `lora`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, field_validator

from cosmos_forge import Options, Problem, hookimpl

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan


class LoraOptions(Options):
    """Trains low-rank adapters beside frozen linear layers (arXiv 2106.09685)."""

    rank: int = Field(8, ge=1, le=512, description="inner width of an adapter; 8 as in Cosmos post-training")
    alpha: float | None = Field(
        None, gt=0, description="adapters are scaled by alpha / rank; default: rank, a scale of 1, as in Cosmos"
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="share of an adapter's inputs left out in training; Cosmos has none"
    )
    targets: list[str] = Field(
        ["attn.to_q.0", "attn.to_v.0"],
        min_length=1,
        description="ends of the names of the linear layers to adapt, or regular expressions of them; the default is "
        "query and value of the self- and cross-attention of every block of Cosmos-Predict1",
    )
    rank_pattern: dict[str, Annotated[int, Field(ge=1, le=512)]] = Field(
        {}, description="ranks of their own for layers, by ends of names as in targets; the first that fits counts"
    )
    alpha_pattern: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {}, description="the same for alpha; default: alpha, or the layer's rank where that is not given"
    )
    dora: bool = Field(
        False, description="also train the length of each row of the adapted weights (DoRA, arXiv 2402.09353)"
    )
    start: str | None = Field(
        None,
        description="adapters to go on from: a folder of peft's, run:NAME for those that a run exported, or a training "
        "file of Cosmos (iter_N_model.pt); default: fresh ones",
    )

    @field_validator("targets", "rank_pattern", "alpha_pattern")
    @classmethod
    def _expressions(cls, targets: list[str] | dict[str, float]) -> list[str] | dict[str, float]:
        for target in targets:
            try:
                re.compile(target)
            except re.error as error:
                raise ValueError(f"`{target}` is no regular expression: {error}") from None
        return targets

    @classmethod
    def reads(cls, path: Path) -> bool:
        """Whether adapters lie at `path`, judged by the names of tensors. Imports no torch."""
        from forge_lora.looks import holds_adapters

        return holds_adapters(path)

    def rank_of(self, layer: str) -> int:
        """The inner width of a layer's adapter."""
        return next((rank for end, rank in self.rank_pattern.items() if ends(layer, end)), self.rank)

    def scale_of(self, layer: str) -> float:
        """y = W x + scale * up(down(x))."""
        alpha = next((alpha for end, alpha in self.alpha_pattern.items() if ends(layer, end)), self.alpha)
        return 1.0 if alpha is None else alpha / self.rank_of(layer)

    def trained(self, shapes: Mapping[str, Sequence[int]]) -> int:
        """How many numbers train of a network with parameters of these shapes: rank * (in + out) a layer."""
        linear = linear_layers(shapes)
        return sum(
            self.rank_of(layer) * sum(linear[layer]) + (linear[layer][0] if self.dora else 0)
            for layer in self.adapted(linear)
        )

    def adapted(self, layers: Iterable[str]) -> list[str]:
        """Those that a target matches, in their order."""
        return [layer for layer in layers if any(ends(layer, target) for target in self.targets)]

    def misfits(self, linear: Mapping[str, Sequence[int]]) -> Iterator[tuple[str, str, str]]:
        """The key, what is wrong and a fix, of all that does not fit a network with these linear layers, of (out, in):
        targets and patterns without a layer, and layers narrower than their rank."""
        for target in self.targets:
            if not any(ends(layer, target) for layer in linear):
                yield "targets", f"targets: no linear layer's name ends with `{target}`", _nearest(target, list(linear))
        layers = self.adapted(linear)
        for key in ("rank_pattern", "alpha_pattern"):
            for end in getattr(self, key):
                if not any(ends(layer, end) for layer in layers):
                    yield key, f"{key}: no adapted layer's name ends with `{end}`", _nearest(end, layers)
        if narrow := [layer for layer in layers if self.rank_of(layer) > min(linear[layer])]:
            least = min(narrow, key=lambda layer: min(linear[layer]))
            what = f"rank {self.rank_of(least)} is more than `{least}` has, {min(linear[least])}"
            others = f"; {len(narrow)} of {len(layers)} layers are too narrow" if len(narrow) > 1 else ""
            yield "rank", what + others, "lower the rank, or give these layers one of their own in rank_pattern"

    def check(self, plan: Plan) -> Iterator[Problem]:
        """Whether there are such layers, where the model's options tell; and whether what to start from is there, and
        would not count twice."""
        if shapes := "model" in plan.tables and getattr(plan.options("model"), "parameter_shapes", None):
            for key, what, fix in self.misfits(linear_layers(shapes())):
                yield plan.problem("method", key, what, fix)
        if self.start is None:
            return
        if not plan.resolve(self.start).exists():
            what = f"start = {self.start}: there is nothing at {plan.resolve(self.start)}"
            yield plan.problem("method", "start", what, "give the path of a folder of peft's, or of a file")
        model = plan.tables.get("model")
        if model and getattr(model.options, "weights", None) == self.start and getattr(model.options, "lora_scale", 0):
            what = f"the adapters in {self.start} would count twice: [model] weights merges them in"
            yield plan.problem("method", "start", what, "set model.lora_scale = 0.0, or start from the weights alone")


def ends(layer: str, target: str) -> bool:
    """Whether a layer's name ends, at a dot, with what `target` matches."""
    return re.fullmatch(rf"(?:.*\.)?(?:{target})", layer) is not None


def linear_layers(shapes: Mapping[str, Sequence[int]]) -> dict[str, Sequence[int]]:
    """(out, in) of what look like linear layers among a network's parameters."""
    weights = {name.removesuffix(".weight"): shape for name, shape in shapes.items() if name.endswith(".weight")}
    return {layer: shape for layer, shape in weights.items() if len(shape) == 2}


def _nearest(target: str, names: Sequence[str]) -> str:
    """The ends of names, of about its length, that look most like `target`."""
    if not names:
        return "this network has no such layers"
    parts = target.count(".") + 1
    found = {".".join(name.split(".")[-length:]) for name in names for length in (parts, parts + 1)}
    close = difflib.get_close_matches(target, sorted(found), n=3, cutoff=0.5) or sorted(names)[:3]
    return "there are, for example, " + ", ".join(f"`{name}`" for name in close)


@hookimpl
def register_methods(register):
    register("lora", options=LoraOptions, build="forge_lora.lora:Lora")
