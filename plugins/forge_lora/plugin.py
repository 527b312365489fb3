"""Registers `lora`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
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
        linear = {name[: -len(".weight")]: shape for name, shape in shapes.items() if name.endswith(".weight")}
        return sum(
            self.rank_of(layer) * sum(shape) + (shape[0] if self.dora else 0)
            for layer, shape in linear.items()
            if len(shape) == 2 and any(ends(layer, target) for target in self.targets)
        )

    def check(self, plan: Plan) -> Iterator[Problem]:
        """Whether what to start from is there, and would not count twice."""
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


@hookimpl
def register_methods(register):
    register("lora", options=LoraOptions, build="forge_lora.lora:Lora")
