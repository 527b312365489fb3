"""Reads the archives of `torch.save` and of TorchScript for their tensors, and runs nothing that is in them.

An archive is a zip: `data.pkl` is a pickle of containers, `data/0`, `data/1`, .. are the raw tensors that it refers to,
and a TorchScript one has programs in `code/`. A pickle may name any function and have it called. Here it may name
tensors, plain containers, and a few things that weights come with and that inert objects stand in for. Tensors stay in
the file until each is asked for.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cosmos_forge import ForgeError

STORAGES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
}
LOCAL_HEADER = struct.Struct("<26xHH")  # of a file in a zip: its last fields are the lengths of name and padding


@dataclass(frozen=True)
class Stored:
    """A tensor that lies in a file, `offset` bytes from its beginning. stride: in elements."""

    path: Path
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def span(self) -> int:
        """Number of elements from the first to the last."""
        if 0 in self.shape:
            return 0
        return 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))

    def read(self) -> Tensor:
        """The tensor, contiguous, on the CPU, in memory of its own. Raises ForgeError where the file has shrunk."""
        flat = torch.empty(self.span, dtype=self.dtype)
        with self.path.open("rb") as file:
            file.seek(self.offset)
            if flat.numel() and file.readinto(flat.view(torch.uint8).numpy().data) != flat.nbytes:
                raise ForgeError(f"{self.path} ended while it was read", "write it again")
        return flat.as_strided(self.shape, self.stride).contiguous()


class Inert:
    """Stands in for an object of a class that is not wanted; has its attributes and no behaviour."""

    attributes: dict[str, Any] = {}

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None:
        self.attributes = state if isinstance(state, dict) else {}


def read_archive(path: Path) -> Any:
    """What was saved, with a `Stored` for each tensor and an `Inert` for what is neither tensor nor plain data.

    Raises ForgeError where the file is damaged, holds anything unexpected, or is of a format before torch 1.6.
    """
    with path.open("rb") as file:
        start = file.read(2)
    if start != b"PK":
        raise ForgeError(
            f"{path} cannot be read: it is no zip archive, which torch has been writing since version 1.6",
            "if you trust it, write it anew: torch.save(torch.load(path, weights_only=True), path)",
        )
    try:
        with zipfile.ZipFile(path) as archive:
            return _Reader(archive, path).load()
    except Exception as error:  # there is no end to what a damaged pickle can raise
        raise ForgeError(f"{path} cannot be read: {error}", "write or download it again") from error


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """The state of an archived module, by name, on the CPU. Raises ForgeError as `read_archive` does."""
    module = read_archive(path)
    if not isinstance(module, Inert):
        raise ForgeError(f"{path} cannot be read: it holds no TorchScript module", "download it again")
    return dict(_tensors(module, ""))


def _tensors(module: Inert, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, value in module.attributes.items():
        if isinstance(value, Stored):
            yield prefix + name, value.read()
        elif isinstance(value, Inert):
            yield from _tensors(value, f"{prefix}{name}.")


class _Reader(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        pickles = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise pickle.UnpicklingError("it has no data.pkl")
        super().__init__(archive.open(pickles[0]))
        self._archive, self._path = archive, path
        self._root = pickles[0].removesuffix("/data.pkl")
        order = f"{self._root}/byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise pickle.UnpicklingError("its numbers are big-endian")

    def find_class(self, module: str, name: str) -> Any:
        """The few things a pickle may name; what is called here is all that it can call."""
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
            return {"_rebuild_tensor_v2": _tensor, "_rebuild_parameter": _parameter}[name]
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch", "Size"):
            return tuple
        if module == "torch.jit._pickle" and name.startswith("build_") and name.endswith("list"):
            return list
        # Extra state of transformer_engine is an io.BytesIO, whose bytes are spelt as text to be encoded.
        if module.split(".")[0] == "__torch__" or (module, name) in (("_io", "BytesIO"), ("_codecs", "encode")):
            return Inert
        raise pickle.UnpicklingError(f"the archive names {module}.{name}, which is not needed for weights")

    def persistent_load(self, reference: Any) -> Stored:
        """A storage: ("storage", dtype, name in data/, device, number of elements)."""
        _, dtype, name, _, count = reference
        info = self._archive.getinfo(f"{self._root}/data/{name}")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size < count * dtype.itemsize:
            raise pickle.UnpicklingError(f"{info.filename} is compressed or too short")
        with self._path.open("rb") as file:
            file.seek(info.header_offset)
            lengths = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
        return Stored(self._path, info.header_offset + LOCAL_HEADER.size + sum(lengths), dtype, (count,), (1,))


def _tensor(storage: Stored, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Stored:
    start = storage.offset + offset * storage.dtype.itemsize
    tensor = Stored(storage.path, start, storage.dtype, tuple(shape), tuple(stride))
    if min((offset, *shape, *stride)) < 0 or offset + tensor.span > storage.span:
        raise pickle.UnpicklingError("a tensor reaches beyond its numbers")
    return tensor


def _parameter(tensor: Stored, *_: object) -> Stored:
    return tensor
