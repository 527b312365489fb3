"""How a worker ends: what it leaves for the launcher to tell."""

import json

import pytest
import torch

from cosmos_forge import worker
from cosmos_forge.errors import FAILED
from cosmos_forge.run import Run


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), ["recompute", "2.00 GiB"]),
        (ValueError("of no use\nat all"), ["error: ValueError: of no use", "at all"]),
    ],
)
def test_an_error_that_nobody_foresaw(tmp_path, monkeypatch, error, told):
    def fail(*of):
        raise error

    monkeypatch.setattr(worker, "work", fail)
    run = Run(tmp_path)
    run.failure("train", 0).parent.mkdir(parents=True, exist_ok=True)
    assert worker.main(str(tmp_path), "train") == FAILED
    lines = json.loads(run.failure("train", 0).read_text())
    assert all(any(text in line for line in lines) for text in told), lines
    assert "train" in lines[-1] and "traceback" in lines[-1]
