"""Checkpoints written while training goes on.

What a checkpoint holds is copied to host memory; from there a thread writes it, and process 0's thread gives the folder
its name once every process's file is there. Files tell that, not a collective: collectives of two threads could meet in
different orders in different processes, each waiting for ever for the other. A file that never comes is that of a
process that has failed, which ends it, and with it all.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from cosmos_forge.events import Event, Saved
from cosmos_forge.files import settle, share
from cosmos_forge.training import checkpoint

_PATIENCE_SECONDS = 60.0  # for other processes' files once this one has failed


class Saver:
    """Saves training's state from all its processes, one checkpoint at a time.

    A block that ends well waits for the last commit. One that ends with an error does so too, but no longer than a
    minute for other processes.
    """

    def __init__(self, folder: Path, keep: int, emit: Callable[[Event], None] = lambda event: None) -> None:
        self.folder, self.keep, self.emit = folder, keep, emit
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="save")
        self.writing: Future[None] | None = None
        self.patience = math.inf  # until when to wait for other processes, by the monotonic clock
        self.mine: dict[str, Any] = {}
        self.index: dict[str, Any] = {}
        self.token = ""
        # A second copy of what this process writes, kept from checkpoint to checkpoint since pinning memory is slow.
        # All weights of the 7B model with AdamW's two moments are 86 GB, with an average 115, over all processes
        # together: on one machine that is what its host memory has to hold, however many GPUs it has.
        self.copies: dict[str, Tensor] = {}

    def save(self, step: int, tensors: Mapping[str, Tensor], extra: Mapping[str, Any] | None = None) -> None:
        """Starts a checkpoint, after waiting for the one before; returns as soon as `tensors` may change. Called by all
        processes at the same step. extra: JSON values beside the step.

        Raises what went wrong with the one before.
        """
        begin = time.monotonic()
        self.wait()
        pieces, mine = checkpoint.describe(tensors, self.rank)
        if mine != self.mine:
            self._agree(mine)
        copied = self._copy(pieces)
        state = {"step": step, **(extra or {}), "tensors": self.index}
        self.writing = self.thread.submit(self._write, state, copied, begin)

    def check(self) -> None:
        """Raises what went wrong in writing, if that is known by now."""
        if self.writing and self.writing.done():
            self.writing.result()

    def wait(self) -> None:
        """Returns once all is written, on process 0 committed. Raises what went wrong."""
        if self.writing:
            self.writing.result()

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.patience = time.monotonic() + _PATIENCE_SECONDS
        self.thread.shutdown()
        if kind is None:
            self.wait()

    def _agree(self, mine: dict[str, Any]) -> None:
        """Tells every process what each writes: at the first checkpoint, for the others hold the same tensors. If not,
        then in all processes at once, since each knows the names and shapes of all.

        The folder's name while it is written is this saver's alone, so that nobody takes a killed run's file for one of
        its own.
        """
        everyone: list[Any] = [(mine, secrets.token_hex(4))] * self.size
        if self.size > 1:
            dist.all_gather_object(everyone, everyone[0])
        self.mine, self.token = mine, everyone[0][1]
        self.index = checkpoint.join(index for index, _ in everyone)

    def _copy(self, pieces: Mapping[str, Tensor]) -> torch.cuda.Event | None:
        """Copies to host memory; on a GPU without waiting: what changes the pieces next is queued behind the copies,
        and the event tells when they are done."""
        old, self.copies = self.copies, {}
        for name, piece in pieces.items():
            copy = old.pop(name, None)
            if copy is None or copy.shape != piece.shape:
                copy = torch.empty(piece.shape, dtype=piece.dtype, pin_memory=piece.is_cuda)
            self.copies[name] = copy.copy_(piece, non_blocking=True)
        if not any(piece.is_cuda for piece in pieces.values()):
            return None
        event = torch.cuda.Event()
        event.record()
        return event

    def _write(self, state: dict[str, Any], copied: torch.cuda.Event | None, begin: float) -> None:
        """In the thread: this process's file and, in process 0, the commit."""
        if copied:
            copied.synchronize()
        final = self.folder / checkpoint.folder_of(state["step"])
        partial = self.folder / f".{final.name}.{self.token}.partial"
        if self.copies or self.rank == 0:  # any other comes late, perhaps, when the folder has its name
            partial.mkdir(parents=True, exist_ok=True)
        if self.copies:
            self._write_pieces(partial / checkpoint.file_of(self.rank))
        if self.rank == 0:
            self._wait_for_all(partial)
            checkpoint.commit(partial, final, state)
            checkpoint.prune(self.folder, self.keep)
            self.emit(Saved(state["step"], str(final.relative_to(self.folder.parent)), time.monotonic() - begin))

    def _write_pieces(self, path: Path) -> None:
        """The file has its name once all of it is on the disk. safetensors writes from where the tensors lie, and lets
        Python's other threads run meanwhile."""
        unnamed = path.with_name(f".{path.name}")
        save_file(self.copies, unnamed)
        share(unnamed)
        settle(unnamed)
        unnamed.rename(path)

    def _wait_for_all(self, partial: Path) -> None:
        files = {piece["file"] for entry in self.index.values() for piece in entry["pieces"]}
        while missing := [name for name in files if not (partial / name).exists()]:
            if time.monotonic() > self.patience:
                raise TimeoutError(f"{partial} was never completed: {', '.join(sorted(missing))}")
            time.sleep(0.02)
