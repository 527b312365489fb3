"""The same bits from the same work, on GPUs too."""

from __future__ import annotations

import os

import torch


def be_deterministic() -> None:
    """From now on this process adds numbers up in one order only; a kernel that cannot is an error. To be called before
    anything is computed, since cuBLAS and the compiler look once. Source: torch's notes on reproducibility."""
    os.environ |= {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "TORCHINDUCTOR_DETERMINISTIC": "1"}
    torch.use_deterministic_algorithms(True)
