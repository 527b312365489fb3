"""Writes safetensors, one tensor at a time, so that files may be larger than memory."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from forge_cosmos1.weights_files import DTYPES, Entry

NAMES = {dtype: name for name, dtype in DTYPES.items()}
SHARD = 5_000_000_000  # bytes, above which weights are spread over several files


def write_weights(
    folder: Path, stem: str, entries: Mapping[str, Entry], on_tensor: Callable[[], None], shard: int = SHARD
) -> None:
    """`<stem>.safetensors`, or, where that would have more than `shard` bytes, several with an index."""
    groups: list[dict[str, Entry]] = [{}]
    for name, entry in entries.items():
        if groups[-1] and bytes_of(groups[-1]) + bytes_of({name: entry}) > shard:
            groups.append({})
        groups[-1][name] = entry
    if len(groups) == 1:
        write_safetensors(folder / f"{stem}.safetensors", entries, on_tensor)
        return
    place: dict[str, str] = {}
    for number, group in enumerate(groups, start=1):
        file = f"{stem}-{number:05}-of-{len(groups):05}.safetensors"
        write_safetensors(folder / file, group, on_tensor)
        place |= dict.fromkeys(group, file)
    index = {"metadata": {"total_size": bytes_of(entries)}, "weight_map": place}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def write_safetensors(path: Path, entries: Mapping[str, Entry], on_tensor: Callable[[], None]) -> None:
    """One file, as github.com/huggingface/safetensors describes: length of the header, header, numbers."""
    # Wide numbers first, so that each begins at a multiple of its size.
    ordered = dict(sorted(entries.items(), key=lambda item: -item[1].dtype.itemsize))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, entry in ordered.items():
        begin, end = end, end + bytes_of({name: entry})
        header[name] = {"dtype": NAMES[entry.dtype], "shape": list(entry.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for entry in ordered.values():
            flat = entry.read().to(entry.dtype).contiguous().flatten()
            file.write(flat.view(torch.uint8).numpy().data)
            on_tensor()


def bytes_of(entries: Mapping[str, Entry]) -> int:
    """How much the tensors take, in their own precision."""
    return sum(math.prod(entry.shape) * entry.dtype.itemsize for entry in entries.values())
