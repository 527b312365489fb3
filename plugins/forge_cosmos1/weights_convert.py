"""`forge convert`: weights from any form that is read into one of three that are written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from cosmos_forge import ForgeError
from forge_cosmos1 import weights
from forge_cosmos1.variants import PATCH, VARIANTS
from forge_cosmos1.video2world import Network
from forge_cosmos1.weights_diffusers import write_pipeline
from forge_cosmos1.weights_files import Entry, Weights, open_weights
from forge_cosmos1.weights_write import bytes_of, write_safetensors, write_weights

FIRST = "net.x_embedder.proj.1.weight"  # its shape tells the published networks apart


@dataclass(frozen=True)
class Source:
    """What to convert. averaged, lora_scale, allow_missing: see `weights.load`."""

    path: Path
    averaged: bool = False
    lora_scale: float = 1.0
    allow_missing: Sequence[str] = ()


def convert_weights(
    source: Source,
    target: Path,
    form: str,
    tokenizer: Path | None = None,
    text_encoder: Path | None = None,
    begin: Callable[[int], Callable[[], None]] = lambda count: lambda: None,
) -> list[str]:
    """Writes `target` in the form `safetensors`, `predict1` or `diffusers`; returns lines that say what was done.

    Precision stays what it was. tokenizer, text_encoder: folders of what else belongs into a pipeline of diffusers.
    begin: told the number of tensors, gives what is called after each. `predict1` is assembled in memory, the others
    are written tensor by tensor. Raises ForgeError where `target` exists or anything does not fit.
    """
    opened = open_weights(source.path, source.averaged, source.lora_scale)
    variant = variant_of(opened)
    with torch.device("meta"):
        wanted = Network(VARIANTS[variant]).state_dict()
    missing = weights.match({name: value.shape for name, value in wanted.items()}, opened, source.allow_missing)
    entries = dict(_complete(wanted, opened))
    notes: list[str] = []
    with _whole(target, bytes_of(entries)) as unfinished:
        on_tensor = begin(len(entries))
        if form == "diffusers":
            notes = write_pipeline(unfinished, VARIANTS[variant], entries, tokenizer, text_encoder, on_tensor)
        elif form == "predict1":
            _write_predict1(unfinished, entries, on_tensor)
        elif target.suffix == ".safetensors":
            write_safetensors(unfinished, entries, on_tensor)
        else:
            unfinished.mkdir()
            write_weights(unfinished, "model", entries, on_tensor)
    said = weights.account(wanted, opened, missing)
    return [f"{variant}: {said}", *notes, f"{_amount(_size(target))} written to {target}"]


def variant_of(opened: Weights) -> str:
    """The published network that weights are of. Raises ForgeError where they are of none."""
    first = opened.entries.get(FIRST)
    inputs = {(config.model_channels, config.in_channels * PATCH**2): variant for variant, config in VARIANTS.items()}
    if first is None or first.shape not in inputs:
        has = f"{FIRST} is {list(first.shape)}" if first else f"they have no {FIRST}"
        raise ForgeError(
            f"{opened.path} holds weights of no network known here: {has}",
            f"known are {', '.join(f'{variant} {list(shape)}' for shape, variant in inputs.items())}",
        )
    return inputs[first.shape]


def _complete(wanted: Mapping[str, Tensor], opened: Weights) -> Iterator[tuple[str, Entry]]:
    generator = torch.Generator().manual_seed(0)
    for name, value in wanted.items():
        if name in opened.entries:
            yield name, opened.entries[name]
        else:
            made = weights.absent(name, value.shape, generator)
            yield name, Entry(tuple(made.shape), made.dtype, partial(torch.clone, made))


def _write_predict1(target: Path, entries: Mapping[str, Entry], on_tensor: Callable[[], None]) -> None:
    file = target
    if target.suffix != ".pt":
        target.mkdir()
        file = target / "model.pt"
    state = {}
    for name, entry in entries.items():
        state[name] = entry.read().to(entry.dtype)
        on_tensor()
    torch.save(state, file)


@contextmanager
def _whole(target: Path, size: int) -> Iterator[Path]:
    """A path to write at least `size` bytes to, which becomes `target` only when all is well."""
    if target.exists():
        raise ForgeError(f"{target} exists", "name another place, or remove it")
    unfinished = target.with_name(f".{target.stem}.{os.getpid()}.partial{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target.parent).free
        if free < size:
            raise OSError(f"it needs {_amount(size)}, and {_amount(free)} are free")
        yield unfinished
        unfinished.rename(target)
    except (OSError, RuntimeError) as error:  # what torch raises on a full disk
        raise ForgeError(f"{target} could not be written: {error}", "make room there, or name another place") from error
    finally:
        if unfinished.is_dir():
            shutil.rmtree(unfinished)
        unfinished.unlink(missing_ok=True)


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _amount(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
