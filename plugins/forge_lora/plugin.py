"""Registers `lora`."""

from __future__ import annotations

from pydantic import Field

from cosmos_forge import Options, hookimpl


class LoraOptions(Options):
    """Trains low-rank adapters beside frozen linear layers (arXiv 2106.09685)."""

    rank: int = Field(8, ge=1, le=512, description="inner width of an adapter; 8 as in Cosmos post-training")
    alpha: float | None = Field(
        None, gt=0, description="adapters are scaled by alpha / rank; default: rank, a scale of 1, as in Cosmos"
    )
    targets: list[str] = Field(
        ["attn.to_q.0", "attn.to_v.0"],
        min_length=1,
        description="ends of the names of the linear layers to adapt; the default is query and value of the self- and "
        "cross-attention of every block of Cosmos-Predict1",
    )

    @property
    def scale(self) -> float:
        """y = W x + scale * up(down(x))."""
        return 1.0 if self.alpha is None else self.alpha / self.rank


@hookimpl
def register_methods(register):
    register("lora", options=LoraOptions, build="forge_lora.lora:Lora")
