"""The command `forge embed`. Imports no torch until it runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cosmos_forge import ForgeError
from forge_t5.plugin import PUBLISHED, T5Options

if TYPE_CHECKING:
    from forge_t5.t5 import T5


MAX_TOKENS = 512  # that a caption is cut to, as in the reference


class Precision(str, Enum):
    """Of weights and computation."""

    fp32 = "fp32"
    bf16 = "bf16"


def embed(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="a dataset: `metas/*.txt`, and `videos/*.mp4`")],
    model: Annotated[str, typer.Option(help="a folder, or owner/name of a T5 that has been downloaded")] = PUBLISHED,
    dtype: Annotated[Precision, typer.Option(help="of weights and computation; what is written is float16")] = (
        Precision.fp32
    ),
    caption: Annotated[
        str | None, typer.Option(metavar="TEXT", help="written to `metas` for each video that has no caption")
    ] = None,
) -> None:
    """Write T5 embeddings of a dataset's captions: t5_xxl/<stem>.pickle for each metas/<stem>.txt.

    The reference's dataset reads them, and so does the text encoder `t5-pickles`. Embeddings that are there stay,
    unless their caption has changed; equal captions are encoded once. The same command goes on where it stopped.
    """
    from forge_t5.embed import embed_captions

    def load() -> T5:
        return _load(model, dtype.value)

    name = str(Path(model).resolve()) if Path(model).is_dir() else model
    typer.echo("\n".join(embed_captions(folder, f"{name} in {dtype.value}", load, caption, _progress)))


def _load(model: str, dtype: str) -> T5:
    import torch
    from transformers import logging

    from forge_t5.t5 import T5

    logging.set_verbosity_error()  # it would list the decoder; what the encoder lacks is an error of ours
    folder = _find(model)
    config = folder / "config.json"
    if not config.exists():
        raise ForgeError(f"{folder} holds no config.json", "give a folder as `save_pretrained` writes it")
    width = json.loads(config.read_text(encoding="utf-8"))["d_model"]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return T5(folder, width, MAX_TOKENS, dtype, device)


def _find(model: str) -> Path:
    """The folder itself, or where the hub's files lie on this machine. Raises ForgeError, for nothing is downloaded."""
    from huggingface_hub import snapshot_download

    if Path(model).is_dir():
        return Path(model)
    patterns = [pattern for need in T5Options.model_validate({"model": model}).needs() for pattern in need.files]
    try:
        folder = Path(snapshot_download(model, allow_patterns=patterns, local_files_only=True))
    except (OSError, ValueError):
        folder = None
    files = f" {' '.join(patterns)}" if model == PUBLISHED else ""
    if folder is None or not all(any(folder.glob(pattern)) for pattern in patterns):
        raise ForgeError(
            f"{model} is no folder here, nor has it been downloaded from the hub",
            f"`hf download {model}{files}` gets it",
        )
    return folder


def _progress(count: int) -> Callable[[], None]:
    if not sys.stderr.isatty():
        return lambda: None
    bar = typer.progressbar(length=count, label="captions", file=sys.stderr)

    def step() -> None:
        bar.update(1)
        if bar.finished:
            bar.render_finish()

    return step
