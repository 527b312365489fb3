"""What this machine has, told without torch."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from cosmos_forge.errors import ForgeError
from cosmos_forge.options import Download

DRIVER = Path("/proc/driver/nvidia")  # where NVIDIA's driver tells of itself
CGROUPS = Path("/sys/fs/cgroup")  # where Linux tells of a container's limits


def gpus() -> int:
    """GPUs that a process started here would see. FORGE_GPUS says so outright."""
    if told := os.environ.get("FORGE_GPUS"):
        if not told.isdecimal():
            raise ForgeError(f"FORGE_GPUS must be a whole number, got {told!r}", "unset it to count the GPUs")
        return int(told)
    found = devices()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return found
    chosen = [each.strip() for each in visible.split(",")]
    # CUDA stops at the first entry that names no device.
    named = next((place for place, each in enumerate(chosen) if not each or each.startswith("-")), len(chosen))
    return min(found, named)


def devices() -> int:
    """GPUs of this machine, whether or not a process may see them."""
    return sum(bool(re.fullmatch(r"nvidia\d+", path.name)) for path in Path("/dev").glob("nvidia*"))


@contextmanager
def supposed(count: int) -> Iterator[None]:
    """Within, this machine has so many GPUs."""
    before = os.environ.get("FORGE_GPUS")
    os.environ["FORGE_GPUS"] = str(count)
    try:
        yield
    finally:
        del os.environ["FORGE_GPUS"]
        os.environ.update({} if before is None else {"FORGE_GPUS": before})


def gpu_name() -> str | None:
    """What the driver calls the first GPU that it shows; None where it shows none, or a part of one is in use (MIG)."""
    if "MIG-" in os.environ.get("CUDA_VISIBLE_DEVICES", ""):
        return None
    for told in sorted(DRIVER.glob("gpus/*/information")):
        if found := re.search(r"^Model:\s*(.+?)\s*$", told.read_text(), re.MULTILINE):
            return found[1]
    return None


def free_gigabytes(folder: Path) -> float:
    """Free space where `folder` is, or would be made; 10^9 bytes."""
    return shutil.disk_usage(_existing(folder)).free / 1e9


def writable(folder: Path) -> bool:
    """Whether files can be written to `folder`, which is made if need be."""
    place = _existing(folder)
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)


def host_memory() -> tuple[int, int]:
    """Bytes of main memory, free and in all; in a container that has a limit, those within it."""
    import psutil

    memory = psutil.virtual_memory()
    for folder, limit, use, cached in (
        (CGROUPS, "memory.max", "memory.current", "inactive_file"),  # version 2
        (CGROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),  # version 1
    ):
        try:
            most, used = (int((folder / name).read_text()) for name in (limit, use))
            given_up = re.search(rf"^{cached} (\d+)$", (folder / "memory.stat").read_text(), re.MULTILINE)
        except (OSError, ValueError):  # there is no such file, or it says "max"
            continue
        if most < memory.total:
            free = most - used + (int(given_up[1]) if given_up else 0)  # what is read from files makes room
            return min(memory.available, free), most
    return memory.available, memory.total


def same_disk(one: Path, other: Path) -> bool:
    """Whether both folders are, or would be made, on one file system."""
    return _existing(one).stat().st_dev == _existing(other).stat().st_dev


def hub_cache() -> Path:
    """Where huggingface_hub keeps downloads."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def hub_folder(download: Download) -> Path:
    """Where huggingface_hub keeps a repository, within its cache."""
    return hub_cache() / f"{download.repo_type}s--{download.repo.replace('/', '--')}"


def snapshot(download: Download) -> Path | None:
    """The folder of the download's files; None where a pattern of the download matches no file in it."""
    repo = hub_folder(download)
    ref = repo / "refs" / download.revision
    folder = repo / "snapshots" / (ref.read_text().strip() if ref.is_file() else download.revision)
    return folder if all(any(_matches(folder, pattern)) for pattern in download.files) else None


def is_downloaded(download: Download) -> bool:
    """Whether the files are on this machine."""
    return snapshot(download) is not None


def downloaded_gigabytes(download: Download) -> float:
    """What the files on this machine weigh; 10^9 bytes."""
    folder = snapshot(download)
    files = {path for pattern in download.files for path in _matches(folder, pattern)} if folder else set()
    return sum(path.stat().st_size for path in files) / 1e9


def _matches(folder: Path, pattern: str) -> Iterator[Path]:
    """Files that the hub sends for the pattern: its * goes across folders. A link that leads nowhere is no file."""
    for path in folder.rglob("*"):
        if fnmatch(path.relative_to(folder).as_posix(), pattern) and path.is_file():
            yield path


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that exists."""
    folder = folder.absolute()
    return next(each for each in (folder, *folder.parents) if each.exists())
