"""Stand-ins for what a host gives a component.

Shape suffixes: B batch, L tokens, D width.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cosmos_forge.errors import ForgeError, Problem
from cosmos_forge.options import Download, build_options
from cosmos_forge.plugins import load_plugins
from cosmos_forge.types import Context, LoggerContext, World


def make_context(folder: Path, **changes: Any) -> Context:
    """A context on the CPU in float32 with seed 0, writing to `folder`; `changes` replaces any of its fields.

    Its `component` builds what installed plugins offer, its `resolve` takes paths, its events go nowhere. Asking it for
    a download fails: tests must not need one.
    """

    def files(download: Download) -> Path:
        raise AssertionError(f"the component asked for a download ({download.repo}); give it local files in its test")

    def component(kind: str, use: str, **options: Any) -> Any:
        return build(kind, use, options, context)

    fields: dict[str, Any] = {
        "device": torch.device("cpu"),
        "dtype": torch.float32,
        "world": World(),
        "seed": 0,
        "folder": folder,
        "files": files,
        "resolve": Path,
        "component": component,
        "emit": lambda event: None,
    }
    context = Context(**{**fields, **changes})
    return context


def build(kind: str, use: str, values: dict[str, Any], context: Context | LoggerContext) -> Any:
    """The component's object, built as a worker builds it. Raises ForgeError for options that are not right."""
    component = load_plugins().find(kind, use)
    options, faults = build_options(component.options, values)
    if options is None:
        raise ForgeError(Problem(fault.what, fix=fault.fix) for fault in faults)
    module, _, name = component.build.partition(":")
    return getattr(importlib.import_module(module), name)(options, context)


class TinyNet(nn.Module):
    """A network with repeated blocks and random weights, the same for the same seed: (B, L, 6) -> (B, L, 3).

    Its linear layers are `embed`, `blocks.0.to_q`, `blocks.0.to_v`, `blocks.0.to_out` and so on, and `head`. Some
    widths are odd, so that pieces of parameters differ in size.
    """

    def __init__(self, width: int = 10, count: int = 2, seed: int = 0) -> None:
        super().__init__()
        self.embed = nn.Linear(6, width, bias=False)
        self.blocks = nn.ModuleList(TinyBlock(width) for _ in range(count))
        self.head = nn.Linear(width, 3)
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5

    def forward(self, x_BLD: Tensor) -> Tensor:
        x_BLD = self.embed(x_BLD.to(self.embed.weight.dtype))
        for block in self.blocks:
            x_BLD = block(x_BLD)
        out_BLD: Tensor = self.head(x_BLD)
        return out_BLD


class TinyBlock(nn.Module):
    """x + to_out(silu(to_q(x)) * to_v(x)) * scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(width, 7, bias=False)
        self.to_v = nn.Linear(width, 7, bias=False)
        self.to_out = nn.Linear(7, width, bias=False)
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x_BLD: Tensor) -> Tensor:
        changed_BLD = self.to_out(nn.functional.silu(self.to_q(x_BLD)) * self.to_v(x_BLD))
        return x_BLD + changed_BLD * self.scale
