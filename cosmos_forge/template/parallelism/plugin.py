"""Registers `new-plugin` and says what a recipe may choose about it."""

from __future__ import annotations

from pydantic import Field

from cosmos_forge import Options, hookimpl


class NewPluginOptions(Options):
    """Whole weights in each process; each gradient is averaged once it is complete."""

    num_processes: int | None = Field(None, ge=1, description="processes a stage gets; default: one a GPU, or 1")

    def processes(self, gpus: int) -> int:
        """How many workers a stage gets. Raises ValueError where that cannot be."""
        if self.num_processes and 0 < gpus < self.num_processes:
            raise ValueError(f"num_processes is {self.num_processes}, but there are {gpus} GPUs")
        return self.num_processes or max(gpus, 1)


@hookimpl
def register_parallelisms(register):
    register("new-plugin", options=NewPluginOptions, build="new_plugin.parallelism:NewPlugin")
