"""GPUs are known by the names that people and drivers give them, and by no other."""

import subprocess
import sys

import pytest

from cosmos_forge.errors import ForgeError
from cosmos_forge.gpus import GPUS, find, known


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-80gb"),
        ("H100-80GB", "h100-80gb"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("RTX 6000 Ada Generation", "rtx-6000-ada"),
        ("h200", "h200"),
    ],
)
def test_names_of_people_and_drivers(said, name):
    assert find(said).name == name


@pytest.mark.parametrize("said", ["NVIDIA A100-SXM4-40GB MIG 1g.5gb", "Tesla T4", "NVIDIA", ""])
def test_what_is_not_known(said):
    assert known(said) is None


def test_a_typo_is_told_the_nearest():
    with pytest.raises(ForgeError, match="did you mean `h100-80gb`"):
        find("h100-80g")


def test_no_name_is_two_gpus_and_every_figure_is_that_of_a_gpu():
    names = [name for gpu in GPUS for name in {gpu.name, gpu.device}]
    assert [known(name).name for name in names] == [gpu.name for gpu in GPUS for _ in {gpu.name, gpu.device}]
    for gpu in GPUS:
        assert 10 < gpu.memory_gib < 200 and 50 < gpu.tflops < 3000 and 200 < gpu.bandwidth < 10_000, gpu
        # Memory feeds no GPU of these with fewer than 50 or more than 600 operations a byte.
        assert 50 < 1000 * gpu.tflops / gpu.bandwidth < 600, gpu


def test_it_needs_no_torch():
    code = "import sys, cosmos_forge.gpus; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
