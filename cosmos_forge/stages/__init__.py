"""The stages: one verb over a plan each. This table is light; a worker imports the function it names."""

from __future__ import annotations

from dataclasses import dataclass

from cosmos_forge.options import Options
from cosmos_forge.stages.options import ExportOptions, FetchOptions, GenerateOptions, PrepareOptions, TrainOptions


@dataclass(frozen=True)
class Stage:
    """name: the recipe's table and the command. options: its keys. run: import string of `run(plan, run, context)`.
    tables: the component tables it builds from, which a recipe with this stage must have; optional: the kinds that it
    builds from where the recipe has them. parallel: whether it gets all the processes that the parallelism asks for, or
    one. recurring: looks anew each time for what is left to do, since what it leaves lies outside the run.
    """

    name: str
    options: type[Options]
    run: str
    tables: tuple[str, ...]
    optional: tuple[str, ...] = ()
    parallel: bool = False
    recurring: bool = False


_DATA = ("dataset", "latent_tokenizer", "text_encoder")

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("fetch", FetchOptions, "cosmos_forge.stages.fetch:run", (), recurring=True),
        Stage("prepare", PrepareOptions, "cosmos_forge.stages.prepare:run", (*_DATA, "parallelism"), parallel=True),
        Stage(
            "train",
            TrainOptions,
            "cosmos_forge.stages.train:run",
            ("model", "method", "text_encoder", "parallelism"),
            parallel=True,
        ),
        Stage("export", ExportOptions, "cosmos_forge.stages.export:run", ("model", "method")),
        Stage(
            "generate",
            GenerateOptions,
            "cosmos_forge.stages.generate:run",
            ("model", "latent_tokenizer", "text_encoder", "sampler", "parallelism"),
            ("prompt_upsampler", "guardrail"),
            parallel=True,
        ),
    )
}
