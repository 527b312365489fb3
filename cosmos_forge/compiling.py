"""torch.compile for a network's repeated blocks, one by one.

Equal blocks share one graph, so what compiling costs does not grow with their number, and all that a block does between
its matrix products and attention becomes a few kernels. `docs/measured.md` has figures.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from cosmos_forge.errors import ForgeError
from cosmos_forge.events import Note
from cosmos_forge.types import Context

Choice = Literal["auto", "blocks", "none"]


def wake_compiler(choice: Choice, device: torch.device) -> None:
    """Starts the processes that compile a GPU's kernels, if there will be any, so that they are ready by then: to be
    called before something that takes long. Kernels that find nobody ready are compiled one after the other."""
    if choice == "none" or device.type != "cuda" or _lacking(device):
        return
    from torch._inductor.async_compile import AsyncCompile

    AsyncCompile.warm_pool()
    AsyncCompile.wakeup()


def compile_blocks(net: nn.Module, blocks: Sequence[str], choice: Choice, context: Context) -> bool:
    """Lets blocks compile themselves when they are first called. Names and parameters of `net` stay as they are.

    choice: as in a recipe. Returns whether they will. Says what it does, or why `auto` leaves a GPU's blocks as they
    are. Raises ForgeError where `blocks` cannot be had.
    """
    if choice == "none" or (choice == "auto" and context.device.type != "cuda"):
        return False
    if lacking := _lacking(context.device):
        if choice == "blocks":
            raise ForgeError(f"torch.compile needs {lacking}", "install it, or set compile to auto or none")
        text = f"blocks are not compiled, which makes them slower: torch.compile needs {lacking}"
        context.emit(Note(text, warning=True))
        return False
    for name in blocks:
        net.get_submodule(name).compile(options=_options())
    context.emit(Note(f"{len(blocks)} blocks are compiled one by one; the first step waits for it"))
    return True


def _options() -> dict[str, bool]:
    """Of torch's compiler. Where sums over rows and over columns are to become one kernel, torch 2.10 to at least 2.13
    leaves some of the sums out and hands on whatever lay in memory: in a block with modulated norms, gradients of the
    modulations (github.com/pytorch/pytorch/issues/193061)."""
    from torch._inductor import config

    name = "mix_order_reduction"
    return {f"triton.{name}": False} if hasattr(config.triton, name) else {}


def _lacking(device: torch.device) -> str:
    """What torch.compile would miss on this machine; empty where everything is there."""
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "a C compiler (gcc or clang)"
    if not Path(sysconfig.get_path("include", "posix_prefix"), "Python.h").exists():
        return "Python's C headers (of a package such as python3-dev)"
    if device.type == "cuda" and not find_spec("triton"):
        return "the package triton"
    return ""
