"""The command `forge convert`. Imports no torch until it runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Form(str, Enum):
    """What can be written."""

    safetensors = "safetensors"
    predict1 = "predict1"
    diffusers = "diffusers"


class Kept(str, Enum):
    """Which weights of a training file."""

    regular = "regular"
    ema = "ema"


def convert(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="a file of weights, or a folder that holds them")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="a new folder; or a new .safetensors or .pt file")],
    to: Annotated[Form, typer.Option(help="predict1 is the reference's model.pt; diffusers a pipeline's folder")],
    weights: Annotated[Kept, typer.Option(help="of a training file that holds both; ema are averaged")] = Kept.regular,
    lora_scale: Annotated[float, typer.Option(help="of adapters in SRC, which are merged in")] = 1.0,
    allow_missing: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="what SRC may lack, with * for any text; may be repeated")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="the video tokenizer, for the `vae` of diffusers")
    ] = None,
    text_encoder: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="a T5 from the hub, to be copied into diffusers' folder")
    ] = None,
) -> None:
    """Write Cosmos-Predict1 weights in another form.

    SRC may be a model.pt as released, a training file of the reference (with adapters or averages), safetensors, or a
    folder of diffusers. Every name is accounted for, and nothing in a file is run.
    """
    from forge_cosmos1.weights_convert import Source, convert_weights

    chosen = Source(source, weights is Kept.ema, lora_scale, tuple(allow_missing or ()))
    with ExitStack() as stack:

        def begin(count: int) -> Callable[[], None]:
            if not sys.stderr.isatty():
                return lambda: None
            bar = stack.enter_context(typer.progressbar(length=count, label="tensors", file=sys.stderr))
            return lambda: bar.update(1)

        lines = convert_weights(chosen, target, to.value, tokenizer, text_encoder, begin)
    typer.echo("\n".join(lines))
