"""Reads the tensors of a TorchScript archive without running any of its code.

An archive is a zip: `data.pkl` is a pickle of the module tree, `data/0`, `data/1`, .. are the raw tensors it refers to,
and `code/` holds programs, which `torch.jit.load` would compile and could run. Here only the pickle is read, and it may
name nothing but tensors, containers and the archive's own classes, for which an inert object stands in.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

STORAGES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
}


class Inert:
    """Stands in for an object of the archive's own classes; has its attributes and no behaviour."""

    attributes: dict[str, Any] = {}

    def __setstate__(self, state: object) -> None:
        self.attributes = state if isinstance(state, dict) else {}


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """The state of the archived module, by name, on the CPU.

    Raises zipfile.BadZipFile or pickle.UnpicklingError where the file is no archive or holds anything unexpected.
    """
    with zipfile.ZipFile(path) as archive:
        return dict(_tensors(_Reader(archive).load(), ""))


def _tensors(module: Inert, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, value in module.attributes.items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, Inert):
            yield from _tensors(value, f"{prefix}{name}.")


class _Reader(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile) -> None:
        pickles = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise pickle.UnpicklingError("the file is no TorchScript archive: it has no data.pkl")
        super().__init__(archive.open(pickles[0]))
        self._archive = archive
        self._root = pickles[0].removesuffix(".pkl")

    def find_class(self, module: str, name: str) -> Any:
        """The few things a pickle may name."""
        if module.split(".")[0] == "__torch__":
            return Inert
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch.jit._pickle" and name.startswith("build_") and name.endswith("list"):
            return list
        raise pickle.UnpicklingError(f"the archive names {module}.{name}, which is not needed for weights")

    def persistent_load(self, reference: Any) -> Tensor:
        """A storage: ("storage", dtype, name in data/, device, number of elements)."""
        _, dtype, name, _, count = reference
        data = self._archive.read(f"{self._root}/{name}")
        return torch.frombuffer(bytearray(data), dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)


def _rebuild(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Tensor:
    return torch.as_strided(storage, size, stride, offset).contiguous()
