"""What will be done, complete and frozen; `planning` makes and checks it. Imports no torch."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from cosmos_forge import machine, references
from cosmos_forge.errors import ForgeError, Problem, Where
from cosmos_forge.generation.lengths import Lengths
from cosmos_forge.joined import place as launcher_place
from cosmos_forge.options import Download, Options
from cosmos_forge.plugins import Plugins, load_plugins
from cosmos_forge.recipe import COMMAND_LINE, ROOT, Origins, read_recipe, toml_value
from cosmos_forge.stages.options import ExportOptions, GenerateOptions, PrepareOptions, RunOptions, TrainOptions
from cosmos_forge.tables import Table, build_tables, kind_of, place, problem

SIZES = {"num_frames": 121, "height": 704, "width": 1280}  # of the published models' videos


@dataclass(frozen=True)
class Plan:
    """What will be done, complete. recipe: the file it came from. runs: the folder of all runs."""

    name: str
    recipe: Path
    runs: Path
    tables: Mapping[str, Table]
    origins: Origins
    plugins: Plugins

    @property
    def folder(self) -> Path:
        """The run's directory."""
        return self.runs / self.name

    @property
    def cache(self) -> Path:
        """Where prepared clips lie, shared by runs."""
        return Path(self.prepare.cache).expanduser() if self.prepare.cache else self.runs / "cache"

    @property
    def root(self) -> RunOptions:
        return cast(RunOptions, self.options(ROOT))

    @property
    def prepare(self) -> PrepareOptions:
        return cast(PrepareOptions, self.options("prepare"))

    @property
    def train(self) -> TrainOptions:
        return cast(TrainOptions, self.options("train"))

    @property
    def export(self) -> ExportOptions:
        return cast(ExportOptions, self.options("export"))

    @property
    def generate(self) -> GenerateOptions:
        return cast(GenerateOptions, self.options("generate"))

    @property
    def stages(self) -> tuple[str, ...]:
        return tuple(self.root.stages)

    @property
    def gpus(self) -> int:
        """GPUs that may be used."""
        return 0 if self.root.device == "cpu" else machine.gpus()

    @property
    def processes(self) -> int:
        """Workers of a parallel stage: on this machine, or wherever torchrun or SLURM started their launchers. Raises
        ValueError, as the parallelism does."""
        if "parallelism" not in self.tables:
            return 1
        joined = launcher_place()
        count = int(cast(Any, self.options("parallelism")).processes(joined.size if joined else self.gpus))
        if joined and count != joined.size:
            what = f"`{self.use('parallelism')}` takes {count} process{'es' * (count > 1)}"
            raise ValueError(f"{what}, but {joined.size} were started side by side")
        return count

    @property
    def groups(self) -> int:
        """Parts that a global batch is cut into: processes that share a sample count once. Raises as `processes`."""
        options = self.options("parallelism") if "parallelism" in self.tables else None
        return max(1, self.processes // int(getattr(options, "context", 1)))

    @property
    def max_tokens(self) -> int:
        """Tokens of an encoded prompt."""
        return int(cast(Any, self.options("text_encoder")).max_tokens)

    def table(self, name: str) -> Table:
        """Raises ForgeError where the recipe has no such table."""
        if name not in self.tables:
            raise ForgeError(f"the recipe has no table [{name}]", f"add [{name}] to {self.recipe}")
        return self.tables[name]

    def each(self, kind: str) -> list[Table]:
        """The tables of a kind that are switched on, in the recipe's order."""
        return [table for table in self.tables.values() if kind_of(table.name) == kind and table.on]

    def name_of(self, options: Options) -> str:
        """The table that these options are those of, for a `check` whose table has a name of its own."""
        return next(table.name for table in self.tables.values() if table.options is options)

    def options(self, name: str) -> Any:
        """The validated options of a table."""
        return self.table(name).options

    def use(self, name: str) -> str:
        """The component's name."""
        return self.table(name).use

    def values(self, name: str) -> dict[str, Any]:
        """Every key of a table with its value, as TOML knows them."""
        return self.table(name).values()

    def settings(self, name: str) -> dict[str, Any]:
        """As `values`, but without those that are at their default."""
        table = self.table(name)
        return {"use": table.use, **table.head()} | table.options.model_dump(mode="json", exclude_defaults=True)

    def where(self, table: str, key: str = "") -> Where | None:
        """Where the value of a key was given; for a default, where its table begins."""
        return place(self.origins, table, key)

    def problem(self, table: str, key: str, what: str, fix: str = "") -> Problem:
        """A problem with a key; `what` is the fault without the table's name."""
        return problem(self.origins, table, key, what, fix)

    def resolve(self, weights: str) -> Path:
        """The file behind what a recipe calls weights: "run:NAME" is what that run exported, all else is a path
        relative to the working directory. Raises ForgeError for those of a checkpoint, which lie in no file."""
        return references.exported(self.runs, weights)

    def of_run(self, weights: str) -> bool:
        """Whether weights come out of a run; the plan itself checks that those of a model are there and fit."""
        return references.read(weights) is not None

    @property
    def clip_size(self) -> tuple[int, int, int]:
        """Frames, height and width in pixels of the dataset's clips; of the largest, where there are several sizes."""
        dataset = self.options("dataset")
        return dataset.num_frames, dataset.height, dataset.width

    @property
    def lengths(self) -> Lengths:
        """Frames of a video to generate, and of what is made of it in one go."""
        options, (usual, *_) = self.generate, self._usual_size()
        chunk = min(options.chunk_frames or usual, options.num_frames or sys.maxsize)
        return Lengths(options.num_frames or chunk, chunk, options.overlap)

    def video_size(self) -> tuple[int, int, int]:
        """Frames, height and width in pixels of what is generated in one go: as asked for, else as the dataset's, else
        as published."""
        _, height, width = self._usual_size()
        return self.lengths.chunk, self.generate.height or height, self.generate.width or width

    def _usual_size(self) -> tuple[int, ...]:
        return self.clip_size if "dataset" in self.tables else tuple(SIZES.values())

    def downloads(self) -> list[Download]:
        """What the components need, each once."""
        return list(dict.fromkeys(need for table in self.tables.values() for need in table.options.needs()))

    def dumps(self, comments: bool = False) -> str:
        """The plan as a recipe that says everything; with comments, where each value comes from."""
        blocks = []
        for table in self.tables.values():
            lines = [f"[{table.name}]"] if table.name else []
            for key, value in table.values().items():
                line = f"{key} = {toml_value(value)}"
                lines.append(f"{line}  # {self.origin(table.name, key)}" if comments else line)
            blocks.append("\n".join(lines))
        return "\n\n".join(blocks) + "\n"

    def origin(self, table: str, key: str) -> str:
        """Where a value comes from, in words: file:line, "default" or "command line"."""
        where = self.origins.get((table, key))
        if where is None:
            return "default"
        return COMMAND_LINE if where.file == COMMAND_LINE else f"{where.file}:{where.line}"


def load_plan(folder: Path, stage: str) -> Plan:
    """The plan of a run directory, for the processes that carry it out; the machine is not checked again."""
    own = folder / "stages" / f"{stage}.toml"
    recipe = read_recipe(own if own.exists() else folder / "recipe.toml")
    problems: list[Problem] = []
    plugins = load_plugins()
    tables = build_tables(recipe, plugins, problems)
    if problems:
        raise ForgeError(problems)
    return Plan(folder.name, recipe.path, folder.parent, tables, recipe.origins, plugins)
