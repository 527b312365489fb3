"""Weights: of transformers, and those that were published as `.pt` and `.pth`."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cosmos_forge import ForgeError

FIX = "the folder must hold config.json and weights; `forge fetch` gets what is published"


def load_pretrained(cls: Any, folder: Path, dtype: torch.dtype) -> Any:
    """A model of transformers, from `folder` and never from the network. Raises ForgeError where there is none, or it
    lacks tensors."""
    try:
        loaded = cls.from_pretrained(folder, dtype=dtype, local_files_only=True, output_loading_info=True)
    except (OSError, ValueError) as error:
        what = f"[guardrail] no {cls.__name__} can be loaded from {folder}: {str(error).strip().splitlines()[0]}"
        raise ForgeError(what, FIX) from error
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise ForgeError(f"[guardrail] the weights in {folder} lack {len(missing)} tensors, as {missing[0]}", FIX)
    return model.eval().requires_grad_(False)


def load_tensors(module: nn.Module, path: Path, part: str, prefix: str, unused: str = "") -> None:
    """Fills a module from tensors under `prefix` in `part` of a file ("": the file as a whole); names that begin with
    `unused`, if given, are left out. Nothing but tensors is read. Raises ForgeError for what is missing, left over or
    misshapen."""
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
        tensors = content[part] if part else content
        named = {name.removeprefix(prefix): each for name, each in tensors.items()}
    except (OSError, RuntimeError, pickle.UnpicklingError, KeyError, AttributeError, EOFError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        fix = "`forge fetch` gets what is published"
        raise ForgeError(f"[guardrail] {path} holds no weights that can be read: {said}", fix) from error
    kept = {name: each for name, each in named.items() if not (unused and name.startswith(unused))}
    try:
        module.load_state_dict(kept)
    except RuntimeError as error:
        what = f"[guardrail] {path} holds the weights of something else"
        raise ForgeError(what, " ".join(str(error).split())[:300]) from error
