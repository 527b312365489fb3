"""Whether files look like adapters: told by names alone, without torch, and without reading a number."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

IN_FOLDERS = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")


def holds_adapters(path: Path) -> bool:
    """Of a folder of peft's or diffusers', a file of safetensors, or a training file of Cosmos."""
    if path.is_dir():
        return any((path / name).is_file() for name in IN_FOLDERS)
    if path.suffix == ".safetensors":
        return any(".lora_A." in name for name in _names(path))
    return path.suffix == ".pt" and _mentions(path, b"_lora.net.")


def _names(path: Path) -> list[str]:
    """Of the tensors in a file of safetensors: a length of 8 bytes, then that much JSON."""
    try:
        with path.open("rb") as file:
            return list(json.loads(file.read(int.from_bytes(file.read(8), "little"))))
    except (OSError, ValueError, OverflowError, MemoryError):
        return []


def _mentions(path: Path, text: bytes) -> bool:
    """Whether the pickle in a file of torch's has `text` in it; it is not opened."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(text in archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
    except (OSError, zipfile.BadZipFile):
        return False
