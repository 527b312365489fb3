"""Deterministic training: what torch, cuBLAS and the compiler are told; that GPUs follow is theirs."""

import subprocess
import sys

ASK = """
import os, torch
from cosmos_forge.training.deterministic import be_deterministic
be_deterministic()
import torch._inductor.config as compiler
assert torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
assert os.environ["CUBLAS_WORKSPACE_CONFIG"] in (":4096:8", ":16:8") and compiler.deterministic
"""


def test_everyone_is_told():
    subprocess.run([sys.executable, "-c", ASK], check=True, timeout=120)
