"""Registers `single`, `ddp` and `fsdp`."""

from __future__ import annotations

from pydantic import Field

from cosmos_forge import Options, hookimpl


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

    def processes(self, gpus: int) -> int:
        """`num_processes`, or one a GPU. Raises ValueError where there are fewer GPUs than processes."""
        if self.num_processes is None:
            return max(gpus, 1)
        if 0 < gpus < self.num_processes:
            raise ValueError(f"num_processes is {self.num_processes}, but there are {gpus} GPUs; each takes one")
        return self.num_processes


class DdpOptions(ManyOptions):
    """A whole copy of the network in each process; gradients are averaged."""


class FsdpOptions(ManyOptions):
    """Each process keeps a piece of every block and gathers a block while it computes: least memory."""


@hookimpl
def register_parallelisms(register):
    register("single", options=SingleOptions, build="forge_parallel.backends:Single")
    register("ddp", options=DdpOptions, build="forge_parallel.backends:Ddp")
    register("fsdp", options=FsdpOptions, build="forge_parallel.backends:Fsdp")
