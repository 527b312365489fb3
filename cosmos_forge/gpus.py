"""What GPUs have, by the vendor's data sheets. Imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cosmos_forge.errors import ForgeError
from cosmos_forge.memory import USABLE
from cosmos_forge.options import nearest


@dataclass(frozen=True)
class Gpu:
    """name: what people write. device: what its driver calls it, as torch and nvidia-smi tell. memory_gib: as the
    driver counts it, to half a GiB. tflops: bfloat16 matrix products with float32 sums, dense, 10^12 a second.
    bandwidth: of its memory, 10^9 bytes a second.

    Data sheets of newer GPUs print rates for sparse matrices, which are twice these.
    """

    name: str
    device: str
    memory_gib: float
    tflops: float
    bandwidth: float

    @property
    def usable(self) -> float:
        """Bytes that a process may fill; see `memory.USABLE`."""
        return USABLE * (self.memory_gib - OWN) * 2**30


OWN = 0.8  # GiB that CUDA keeps for itself, as seen on an H200: of 140.0 a process finds 139.2 free
GPUS = (
    Gpu("b200", "NVIDIA B200", 179, 2250, 8000),
    Gpu("gb200", "NVIDIA GB200", 185, 2500, 8000),
    Gpu("h200", "NVIDIA H200", 140, 989, 4800),
    Gpu("h200-nvl", "NVIDIA H200 NVL", 140, 835, 4800),
    Gpu("gh200", "NVIDIA GH200 480GB", 95.5, 989, 4000),
    Gpu("gh200-144gb", "NVIDIA GH200 144G HBM3e", 140, 989, 4900),
    Gpu("h100-80gb", "NVIDIA H100 80GB HBM3", 79.5, 989, 3350),
    Gpu("h100-pcie", "NVIDIA H100 PCIe", 79.5, 756, 2000),
    Gpu("h100-nvl", "NVIDIA H100 NVL", 93.5, 835, 3900),
    Gpu("a100-80gb", "NVIDIA A100-SXM4-80GB", 80, 312, 2039),
    Gpu("a100-80gb-pcie", "NVIDIA A100 80GB PCIe", 80, 312, 1935),
    Gpu("a100-40gb", "NVIDIA A100-SXM4-40GB", 40, 312, 1555),
    Gpu("a100-40gb-pcie", "NVIDIA A100-PCIE-40GB", 40, 312, 1555),
    Gpu("l40s", "NVIDIA L40S", 45, 362, 864),
    Gpu("l40", "NVIDIA L40", 45, 181, 864),
    Gpu("l4", "NVIDIA L4", 22.5, 121, 300),
    Gpu("a40", "NVIDIA A40", 45, 150, 696),
    Gpu("a30", "NVIDIA A30", 24, 165, 933),
    Gpu("a10", "NVIDIA A10", 22.5, 125, 600),
    Gpu("rtx-6000-ada", "NVIDIA RTX 6000 Ada Generation", 48, 364, 960),
    Gpu("rtx-a6000", "NVIDIA RTX A6000", 48, 155, 768),
    Gpu("rtx-5090", "NVIDIA GeForce RTX 5090", 31.5, 209.5, 1792),
    Gpu("rtx-5080", "NVIDIA GeForce RTX 5080", 16, 112.5, 960),
    Gpu("rtx-4090", "NVIDIA GeForce RTX 4090", 24, 165, 1008),
    Gpu("rtx-4080", "NVIDIA GeForce RTX 4080", 16, 97.5, 717),
    Gpu("rtx-3090", "NVIDIA GeForce RTX 3090", 24, 71, 936),
)


def known(device: str) -> Gpu | None:
    """The GPU of which a driver, or a person, gives this name. None for others: also for parts of one (MIG), which have
    names of their own."""
    return next((gpu for gpu in GPUS if _plain(device) in (_plain(gpu.name), _plain(gpu.device))), None)


def find(name: str) -> Gpu:
    """The GPU of that name. Raises ForgeError with the nearest name where there is none."""
    gpu = known(name)
    if gpu is None:
        raise ForgeError(f"no GPU `{name}` is known here", nearest(name.lower(), (each.name for each in GPUS)))
    return gpu


def several(said: str) -> tuple[Gpu, int]:
    """ "h100-80gb:8" -> the GPU and how many; one where no number is told. Raises as `find`."""
    name, colon, count = said.partition(":")
    if colon and not (count.isdecimal() and int(count)):
        raise ForgeError(f"`{said}`: `{count}` is no number of GPUs", f"as in {name}:8")
    return find(name), int(count or 1)


def _plain(name: str) -> str:
    """Lower case, words joined by "-", the maker left out: "NVIDIA H100 PCIe" -> "h100-pcie"."""
    words = re.split(r"[^a-z0-9]+", name.lower())
    return "-".join(word for word in words if word not in ("", "nvidia", "geforce"))
