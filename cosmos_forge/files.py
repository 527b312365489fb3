"""Files that are either whole or not there."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_UMASK = os.umask(0)  # it can only be asked by changing it, which threads at work would notice
os.umask(_UMASK)


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write a file or folder to; it takes `path`'s place when the block ends well.

    Whatever goes wrong, what stood at `path` stays as it was and the temporary is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix is kept: writers of videos and pictures choose their format by it.
    temporary = path.with_name(f".{path.stem}.{_machine()}-{os.getpid()}.partial{path.suffix}")
    _remove(temporary)
    try:
        yield temporary
        share(temporary)
        if path.is_dir():
            _remove(path)
        os.replace(temporary, path)
    finally:
        _remove(temporary)


def write_text(path: Path, text: str) -> None:
    """Writes `path` atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes `path` atomically, indented for people."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def share(path: Path) -> None:
    """Lets others read a file, or all in a folder, as the umask allows: safetensors writes for its owner alone."""
    for each in (path, *path.rglob("*")):
        if each.is_file():
            each.chmod(0o666 & ~_UMASK)


def settle(path: Path) -> None:
    """Waits until a file's content is on the disk, so that after a power cut too a name given later stands for all."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sweep(folder: Path, shared: bool = False) -> None:
    """Removes the temporaries that killed processes left in `folder` and below.

    shared: others may be writing there; what living processes of this machine write stays, and what those of another
    machine write stays for a day.
    """
    for path in folder.rglob(".*.partial*"):
        if not (shared and _in_use(path)):
            _remove(path)


def no_space(error: BaseException) -> bool:
    """Whether an error says that a disk, or a person's share of it, is full."""
    # safetensors says so in words alone.
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or f"os error {errno.ENOSPC}" in str(error)


def sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _in_use(path: Path) -> bool:
    found = re.search(r"\.([^.]+)-(\d+)\.partial", path.name)
    try:
        if not found or found[1] != _machine():
            return path.stat().st_mtime > time.time() - 86400
        os.kill(int(found[2]), 0)
    except (ProcessLookupError, FileNotFoundError):
        return False
    except PermissionError:  # it lives, and is someone else's
        return True
    return True


def _machine() -> str:
    return platform.node().split(".")[0]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
