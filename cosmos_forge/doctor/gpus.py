"""What can be wrong with GPUs, as the driver's files and nvidia-smi tell."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path

import psutil

from cosmos_forge import machine
from cosmos_forge.doctor.check import Check, of_problem
from cosmos_forge.errors import ForgeError

LEAST_DRIVER = {"12": 525, "13": 580}  # by CUDA major version; NVIDIA's table of minor version compatibility
IDLE_MIB = 2048  # what the driver itself may hold of a GPU that nobody uses; more is somebody's
SHARED_BYTES = 1 << 30  # of /dev/shm; NCCL goes through it. Docker gives 64 MiB


def look() -> Iterator[Check]:
    """Torch's build, the driver, the GPUs, whether somebody uses them, and what several of them need to talk."""
    count = 0
    try:
        count = machine.gpus()
    except ForgeError as error:
        yield from (of_problem(problem) for problem in error.problems)
    if util.find_spec("torch"):
        yield torch_build(count)
    if count:
        yield from _told(count)
    else:
        yield _none()
    if count > 1:
        yield from _shared_memory()


def torch_build(gpus: int) -> Check:
    """Torch's CUDA against the driver, read from their files."""
    version = metadata.version("torch")
    spec = util.find_spec("torch")
    text = (Path(spec.origin).parent / "version.py").read_text() if spec and spec.origin else ""
    found = re.search(r"^cuda\b.*?=\s*'([\d.]+)'", text, re.MULTILINE)
    if not found:
        if gpus:
            fix = "`pip install --force-reinstall torch`: from PyPI, builds for Linux have CUDA"
            return Check("fail", f"torch {version} is built without CUDA, but there are GPUs", fix)
        return Check("ok", f"torch {version} without CUDA")
    cuda = found[1]
    driver = driver_version()
    least = LEAST_DRIVER.get(cuda.partition(".")[0])
    if gpus and driver and least and int(driver.partition(".")[0]) < least:
        fix = f"update the driver, or install a torch for an older CUDA than {cuda}"
        return Check("fail", f"torch {version} for CUDA {cuda} needs driver {least} or newer, this is {driver}", fix)
    return Check("ok", f"torch {version} for CUDA {cuda}" + (f", driver {driver}" if driver else ", no NVIDIA driver"))


def driver_version() -> str | None:
    """Of the NVIDIA kernel driver, as in "580.65.06"."""
    try:
        text = (machine.DRIVER / "version").read_text()
    except OSError:
        return None
    found = re.search(r"(\d+\.\d+(?:\.\d+)?)", text)
    return found[1] if found else None


def _none() -> Check:
    """No GPU: because they are hidden, or were not handed in, or since there is none."""
    for name in ("FORGE_GPUS", "CUDA_VISIBLE_DEVICES"):
        if os.environ.get(name) is not None and machine.devices():
            return Check("warn", f"no GPU: {name}={os.environ[name]} hides those that are here", f"unset {name}")
    if driver := driver_version():
        fix = "start the container with `--gpus all`, or ask SLURM for some by `--gres=gpu:1`"
        return Check("warn", f"no GPU is handed to this process, but there is a driver, {driver}", fix)
    return Check("warn", "no GPU", "tiny models run on the CPU; for published ones use a machine with GPUs")


def _told(count: int) -> Iterator[Check]:
    what = f"{count} GPU{'s' if count > 1 else ''}"
    query = ["nvidia-smi", "--query-gpu=name,memory.total,memory.used", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
        rows = [[cell.strip() for cell in line.split(",")] for line in told.splitlines() if line.strip()]
        gpus = [(name, int(total), int(used)) for name, total, used in rows]
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        yield Check("warn", f"{what}, but nvidia-smi does not answer: {error}", "check that the driver works")
        return
    kinds = dict.fromkeys(f"{name}, {total / 1024:.0f} GiB" for name, total, _ in gpus)
    yield Check("ok", f"{what}: {'; '.join(kinds)}")
    for index, (_, total, used) in enumerate(gpus):
        if used > IDLE_MIB:
            what = f"{used / 1024:.0f} of {total / 1024:.0f} GiB of GPU {index} are in use"
            fix = "`nvidia-smi` names the processes: end them, or choose other GPUs by CUDA_VISIBLE_DEVICES"
            yield Check("warn", what, fix)


def _shared_memory() -> Iterator[Check]:
    try:
        size = psutil.disk_usage("/dev/shm").total
    except OSError:
        return
    if size < SHARED_BYTES:
        fix = "start the container with `--shm-size 8g` or `--ipc host`"
        yield Check("warn", f"/dev/shm has {size / 2**20:.0f} MiB, too little for GPUs that work together", fix)
