"""What "run:NAME" and "run:NAME@WHICH" stand for where a recipe names weights. Imports no torch.

run:kitchen          what the run exported
run:kitchen@400      its weights at a step whose checkpoint was kept
run:kitchen@best     at the step with the lowest held-out loss; @newest at the last that was saved
run:kitchen@ema      the averaged ones of the newest; @regular those that are not
run:kitchen@400-ema  both

Without -ema or -regular it is the kind that the run exports. "@400" alone is of the run that the recipe makes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from cosmos_forge.errors import ForgeError

_FORM = re.compile(r"(?:run:(?P<run>[^@]+))?(?:@(?P<which>.*))?")


@dataclass(frozen=True)
class Reference:
    """run: the run's name; None is the one that the recipe makes. which: one of its checkpoints; None is its export."""

    run: str | None
    which: str | None


def read(weights: str | None) -> Reference | None:
    """None for weights that come out of no run."""
    form = _FORM.fullmatch(weights) if weights else None
    return Reference(form["run"], form["which"]) if form else None


def exported(runs: Path, weights: str) -> Path:
    """The file behind weights that lie in one: a path relative to the working directory, or what a run exported.
    Raises ForgeError for those of a checkpoint."""
    reference = read(weights)
    if reference is None:
        return Path(weights)
    if reference.run is None or reference.which is not None:
        fix = "export it, or name it as model.weights or generate.weights, which take checkpoints"
        raise ForgeError(f"{weights} lies in no file", fix)
    return runs / reference.run / "export" / "model.safetensors"
