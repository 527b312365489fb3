"""Registers `single`, `ddp` and `fsdp`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from cosmos_forge import ForgeError, Options, Problem, hookimpl

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan


class SingleOptions(Options):
    """One process on one device."""

    def processes(self, gpus: int) -> int:
        """Always one."""
        return 1


class ManyOptions(Options):
    """Options of the backends with several processes."""

    num_processes: int | None = Field(
        None, ge=1, description="processes a stage gets; default: one a GPU, or 1 on a machine without GPUs"
    )
    context: int = Field(
        1, ge=1, description="processes that share each sample: they split its tokens, and exchange heads for attention"
    )

    def processes(self, gpus: int) -> int:
        """`num_processes`, or one a GPU. Raises ValueError where there are fewer GPUs than processes."""
        if self.num_processes is None:
            return max(gpus, 1)
        if 0 < gpus < self.num_processes:
            raise ValueError(f"num_processes is {self.num_processes}, but there are {gpus} GPUs; each takes one")
        return self.num_processes

    def check(self, plan: Plan) -> Iterator[Problem]:
        """Whether processes and attention heads can be shared out as asked."""
        yield from _divides(plan, "context", self.context)
        if self.context == 1 or "model" not in plan.tables:
            return
        heads = getattr(plan.options("model"), "heads", None)
        if heads is None:
            what = f"context = {self.context}: model `{plan.use('model')}` cannot share a sample between processes"
            yield plan.problem("parallelism", "context", what, "context = 1")
        elif heads % self.context:
            what = f"context = {self.context} does not divide the model's {heads} attention heads"
            fits = ", ".join(str(count) for count in range(1, heads + 1) if heads % count == 0)
            yield plan.problem("parallelism", "context", what, f"{fits} do")


class DdpOptions(ManyOptions):
    """A whole copy of the network in each process; gradients are averaged."""


class FsdpOptions(ManyOptions):
    """Each process keeps a piece of every block and gathers a block while it computes: least memory."""

    shard: int | None = Field(
        None,
        ge=1,
        description="processes that have the pieces of one copy of the weights; default: all. As many as a machine has "
        "GPUs keeps the gathering within each machine (HSDP)",
    )

    def pieces(self, processes: int) -> int:
        """See `kinds.ParallelismOptions`."""
        return self.shard or processes

    def check(self, plan: Plan) -> Iterator[Problem]:
        """As `ManyOptions.check`, and whether copies come out whole."""
        yield from super().check(plan)
        if self.shard:
            yield from _divides(plan, "shard", self.shard)


def _divides(plan: Plan, key: str, count: int) -> Iterator[Problem]:
    try:
        processes = plan.processes
    except (ValueError, ForgeError):
        return  # reported by the plan itself
    if processes % count:
        fits = ", ".join(str(each) for each in range(1, processes + 1) if processes % each == 0)
        what = f"{key} = {count} does not divide the stage's {processes} process{'es' * (processes > 1)}"
        yield plan.problem("parallelism", key, what, f"{key} = {fits}" if processes == 1 else f"{fits} do")


@hookimpl
def register_parallelisms(register):
    register("single", options=SingleOptions, build="forge_parallel.backends:Single")
    register("ddp", options=DdpOptions, build="forge_parallel.backends:Ddp")
    register("fsdp", options=FsdpOptions, build="forge_parallel.backends:Fsdp")
