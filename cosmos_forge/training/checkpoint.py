"""Checkpoints to resume from: safetensors pieces and a JSON that says which piece lies where.

    step-000000400/
      state.json            {"step": ..., "tensors": {name: {"shape": ..., "pieces": [{file, offset, shape}]}}}
      rank-00000.safetensors  what process 0 held, and so on

Every process writes the pieces of DTensors that it holds; what all hold alike is written once. A piece is placed by its
offset in the whole tensor, so any number of processes can read what any other number wrote. The folder gets its name
last; `saving` is what writes it. torch's own distributed checkpoint keeps its index as a pickle, which opening a shared
run must not execute. Which checkpoints there are, and what they say of themselves, is told without importing torch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from cosmos_forge.errors import ForgeError, show_path
from cosmos_forge.files import settle, write_json
from cosmos_forge.training.pieces import in_pieces, place_of

if TYPE_CHECKING:
    from torch import Tensor

LISTED = 4  # names that an error shows


def describe(tensors: Mapping[str, Tensor], rank: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What this process is to write, by name, where it is now; and its part of the index."""
    pieces: dict[str, Tensor] = {}
    index: dict[str, Any] = {}
    for name, tensor in tensors.items():
        offset, local = _piece(tensor)
        mine = _writes(tensor, rank) and (local.numel() > 0 or tensor.numel() == 0)
        if mine:
            pieces[name] = local.detach()
        index[name] = {
            "shape": list(tensor.shape),
            "pieces": [{"file": file_of(rank), "offset": list(offset), "shape": list(local.shape)}] if mine else [],
        }
    return pieces, index


def join(indices: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The index of a checkpoint from those of its processes."""
    first, *others = indices
    return {
        name: {**entry, "pieces": entry["pieces"] + [piece for other in others for piece in other[name]["pieces"]]}
        for name, entry in first.items()
    }


def file_of(rank: int) -> str:
    """The file that a process writes."""
    return f"rank-{rank:05d}.safetensors"


def folder_of(step: int) -> str:
    """The name of a step's checkpoint, and of its samples."""
    return f"step-{step:09d}"


def commit(partial: Path, final: Path, state: Mapping[str, Any]) -> None:
    """Makes a checkpoint of a folder in which every process's pieces are. state: JSON values, the step and the index
    ("tensors") among them."""
    write_json(partial / "state.json", state)
    settle(partial / "state.json")
    _remove(final)
    partial.rename(final)


def committed(folder: Path) -> list[Path]:
    """The checkpoints there are, oldest first."""
    return [state.parent for state in sorted(folder.glob("step-*/state.json"))]


def step_of(folder: Path) -> int:
    """The step that a folder is of, by that name."""
    return int(folder.name.partition("-")[2])


def latest(folder: Path) -> Path | None:
    """The newest committed checkpoint."""
    found = committed(folder)
    return found[-1] if found else None


def best(folder: Path) -> Path | None:
    """The one with the lowest held-out loss, as the newest one's state says; None where nobody has looked for it."""
    newest = latest(folder)
    step = read_state(newest).get("best") if newest else None
    return folder / folder_of(step) if step is not None else None


def prune(folder: Path, keep: int) -> None:
    """Removes all but the newest `keep` checkpoints and the one whose step the newest one's state calls `best`."""
    found = committed(folder)
    kept = [*found[-keep:], best(folder)]
    for each in found:
        if each not in kept:
            _remove(each)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """What `state.json` says. Raises ForgeError where it is damaged."""
    path = checkpoint / "state.json"
    try:
        return dict(json.loads(path.read_text()))
    except ValueError as error:
        raise _damaged(path, error) from None


def restore(checkpoint: Path, tensors: Mapping[str, Tensor]) -> None:
    """Fills `tensors` in place, each process what it holds of them. Raises ForgeError, before anything is changed,
    where what was saved is not these, in name and shape; and where a file is damaged."""
    import torch

    index = read_state(checkpoint)["tensors"]
    _require_fit(checkpoint, {name: entry["shape"] for name, entry in index.items()}, tensors)
    for name, tensor in tensors.items():
        offset, local = _piece(tensor)
        with torch.no_grad():
            _fill(local, offset, name, index[name]["pieces"], checkpoint)


def load(checkpoint: Path, prefix: str) -> dict[str, Tensor]:
    """Whole tensors, on the CPU, of the names that start with `prefix`, which is cut off. Raises ForgeError where a
    file is damaged."""
    import torch

    index = read_state(checkpoint)["tensors"]
    whole = {}
    for name, entry in index.items():
        if name.startswith(prefix):
            with _opened(checkpoint / entry["pieces"][0]["file"]) as file:
                dtype = file.get_tensor(name).dtype if not entry["shape"] else file.get_slice(name)[:1].dtype
            tensor = torch.empty(entry["shape"], dtype=dtype)
            _fill(tensor, (0,) * tensor.ndim, name, entry["pieces"], checkpoint)
            whole[name[len(prefix) :]] = tensor
    return whole


def _require_fit(checkpoint: Path, saved: Mapping[str, list[int]], tensors: Mapping[str, Tensor]) -> None:
    sorts = {
        "missing": [name for name in tensors if name not in saved],
        "that it has no use for": [name for name in saved if name not in tensors],
        "of another shape": [name for name, each in tensors.items() if saved.get(name, [*each.shape]) != [*each.shape]],
    }
    lines = [f"{len(names)} {sort}: {', '.join(names[:LISTED])}" for sort, names in sorts.items() if names]
    if lines:
        raise ForgeError(
            f"{show_path(checkpoint)} does not fit what is to be trained: {'; '.join(lines)}",
            "undo what was changed of [method], [model] and [train], or start a run of its own with --name, which "
            "model.weights = run:NAME@newest lets begin from these weights",
        )


def _remove(folder: Path) -> None:
    """Removes a checkpoint; from the first moment it no longer looks like one."""
    if folder.exists():
        folder = folder.rename(folder.with_name(f".{folder.name}.old.partial"))
        shutil.rmtree(folder)


def _fill(local: Tensor, offset: tuple[int, ...], name: str, pieces: list[dict[str, Any]], checkpoint: Path) -> None:
    """Copies from each saved piece what overlaps with `local`, which lies at `offset` in the whole."""
    for piece in pieces:
        starts = [max(a, b) for a, b in zip(offset, piece["offset"], strict=True)]
        stops = [
            min(a + n, b + m) for a, n, b, m in zip(offset, local.shape, piece["offset"], piece["shape"], strict=True)
        ]
        if any(start >= stop for start, stop in zip(starts, stops, strict=True)):
            continue
        with _opened(checkpoint / piece["file"]) as file:
            if not starts:
                local.copy_(file.get_tensor(name))
                continue
            there = tuple(slice(a - o, b - o) for a, b, o in zip(starts, stops, piece["offset"], strict=True))
            here = tuple(slice(a - o, b - o) for a, b, o in zip(starts, stops, offset, strict=True))
            local[here].copy_(file.get_slice(name)[there])


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> ForgeError:
    fix = f"remove {show_path(path.parent)}; an older checkpoint counts then, if there is one"
    return ForgeError(f"{show_path(path)} is damaged: {error}", fix)


def _piece(tensor: Tensor) -> tuple[tuple[int, ...], Tensor]:
    """Offset in the whole tensor and content of what this process holds."""
    if not in_pieces(tensor):
        return (0,) * tensor.ndim, tensor
    _, offset = place_of(tensor.shape, tensor.device_mesh, tensor.placements)
    return offset, tensor.to_local()


def _writes(tensor: Tensor, rank: int) -> bool:
    """Whether this process writes its piece: the first of those that hold the same."""
    if not in_pieces(tensor):
        return rank == 0
    where: Sequence[int] = tensor.device_mesh.get_coordinate() or ()
    return all(
        index == 0 for index, placement in zip(where, tensor.placements, strict=True) if placement.is_replicate()
    )
