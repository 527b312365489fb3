"""The reference's embeddings on disk: a pickle of a list that holds one numpy array (L, D), L real tokens of width D.

A pickle may name any function and have it called. Nothing of what is named here is ever looked up: inert objects stand
in for the handful of names that numpy writes for a plain array, and all other names are refused.

Upstream: cosmos-predict1, scripts/get_t5_embeddings.py writes float16; dataset_video.py: Dataset reads.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from cosmos_forge import ForgeError

FLOATS = ("f2", "f4", "f8")
PROTOCOL = 4  # what Python 3.8 to 3.13 write by themselves; numpy 1.26 reads no other that numpy 2 writes


def read_pickle(path: Path) -> np.ndarray:
    """The array (L, D) in a pickle; float16, 32 or 64, finite. Raises ForgeError, naming what was refused."""
    again = f"delete it, and `forge embed {path.parent.parent}` writes it anew"
    try:
        content = _Reader(io.BytesIO(path.read_bytes())).load()
    except Exception as error:  # there is no end to what a damaged pickle can raise
        raise ForgeError(f"{path} cannot be read: {error}", again) from error
    if not (isinstance(content, list) and len(content) == 1 and isinstance(content[0], _Array)):
        raise ForgeError(f"{path} is no embedding: it does not hold a list of one array", again)
    array = content[0].array
    if array is None or array.ndim != 2 or not len(array):
        raise ForgeError(f"{path} is no embedding: it must be of the shape (tokens, width)", again)
    if not np.isfinite(array).all():
        raise ForgeError(f"{path} holds numbers that are not finite", again)
    return array


def to_pickle(array: np.ndarray) -> bytes:
    """What the reference reads; `array` (L, D)."""
    return pickle.dumps([np.ascontiguousarray(array)], protocol=PROTOCOL)


class _Inert:
    """Stands in for what a pickle names. That it can be given no state also keeps a pickle from changing it."""

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError(f"{type(self).__name__} is given a state")


class _Type(_Inert):
    """numpy.dtype: of a plain floating-point number."""

    def __init__(self, name: str, align: bool = False, copy: bool = False) -> None:
        if name not in FLOATS:
            raise pickle.UnpicklingError(f"it holds an array of dtype {name!r}, which is no floating-point number")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        """(version, byte order, then what structured dtypes have)."""
        _, order, *structure = state
        if order not in ("<", ">") or any(part is not None for part in structure[:3]):
            raise pickle.UnpicklingError("it holds an array of a structured dtype")
        self.dtype = self.dtype.newbyteorder(order)


class _Array(_Inert):
    """numpy.ndarray, and numpy's `_reconstruct`, which makes an empty one: filled by its state."""

    array: np.ndarray | None = None

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, data = state
        self.fill(data, kind, shape, "F" if fortran else "C")

    def fill(self, data: Any, kind: Any, shape: tuple[int, ...], order: Any) -> None:
        if not (isinstance(data, bytes | bytearray) and isinstance(kind, _Type)):
            raise pickle.UnpicklingError("it holds an array of objects")
        self.array = np.frombuffer(data, kind.dtype).reshape(shape, order=order)


class _FromBuffer(_Array):
    """numpy's `_frombuffer`, of pickle protocol 5."""

    def __init__(self, data: Any, kind: Any, shape: tuple[int, ...], order: Any) -> None:
        self.fill(data, kind, shape, order)


class _Latin1(_Inert, bytes):
    """codecs.encode: how protocols before 3 spell bytes."""

    def __new__(cls, text: str, coding: str) -> _Latin1:
        if coding != "latin1":
            raise pickle.UnpicklingError(f"it holds text in the coding {coding!r}")
        return super().__new__(cls, text.encode("latin1"))


ADMITTED: dict[tuple[str, str], type] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _Latin1,
    ("numpy.core.multiarray", "_reconstruct"): _Array,  # numpy 1
    ("numpy._core.multiarray", "_reconstruct"): _Array,  # numpy 2
    ("numpy.core.numeric", "_frombuffer"): _FromBuffer,
    ("numpy._core.numeric", "_frombuffer"): _FromBuffer,
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which has no business in an array of numbers")
        return ADMITTED[module, name]
