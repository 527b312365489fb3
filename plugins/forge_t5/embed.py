"""`forge embed`: writes the embeddings of a dataset's captions where the reference and `t5-pickles` look for them.

Upstream: cosmos-predict1, scripts/get_t5_embeddings.py and get_t5_embeddings_from_cosmos_nemo_assets.py, which never
write a file anew, so that a changed caption goes unseen.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from cosmos_forge import ForgeError
from cosmos_forge.kinds import TextEncoder
from forge_t5.captions import Record, changed, dump_record, pickle_of, read_captions, read_record
from forge_t5.pickles import to_pickle

NEW = "delete a pickle to have it written anew"


@dataclass
class Work:
    """What is to be done with a dataset's captions.

    todo: stems by caption. rewritten: those of them whose caption has changed. kept: stems whose pickle stays.
    """

    todo: dict[str, list[str]] = field(default_factory=dict)
    rewritten: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)


def embed_captions(
    folder: Path,
    model: str,
    load: Callable[[], TextEncoder],
    caption: str | None = None,
    begin: Callable[[int], Callable[[], None]] = lambda count: lambda: None,
) -> list[str]:
    """Writes `t5_xxl/<stem>.pickle` for captions that have none or have changed; returns lines that say what was done.

    Equal captions are encoded once, or not at all where one of them has an embedding. What is done stays done when this
    is interrupted. model: what `load` gives, as it shall be recorded; it is loaded when something is to be encoded.
    caption: written to `metas` for videos that have none. begin: told the number of captions to encode, gives what is
    called after each. Raises ForgeError.
    """
    said = give_caption(folder, caption)
    captions, unused = read_captions(folder)
    work = plan_work(folder, captions)
    copies = {text: stem for stem, text in work.kept.items() if text in work.todo}
    for text, kept in copies.items():
        source = pickle_of(folder, kept)
        record = read_record(source)
        _write(folder, work.todo[text], text, source.read_bytes(), record.model if record else None)
    fresh = {text: stems for text, stems in work.todo.items() if text not in copies}
    if fresh:
        encode(folder, fresh, model, load(), begin(len(fresh)))
    return [*said, *unused, *report(folder, work, len(fresh), model)]


def plan_work(folder: Path, captions: Mapping[str, str]) -> Work:
    """Raises nothing and writes nothing."""
    work = Work(rewritten=changed(folder, captions))
    for stem, text in captions.items():
        if pickle_of(folder, stem).exists() and stem not in work.rewritten:
            work.kept[stem] = text
        else:
            work.todo.setdefault(text, []).append(stem)
    return work


def encode(
    folder: Path, fresh: Mapping[str, list[str]], model: str, encoder: TextEncoder, step: Callable[[], None]
) -> None:
    """One caption at a time, cut to its real tokens, in float16 as upstream."""
    for text, stems in fresh.items():
        embedding = encoder.encode([text])
        tokens_LD = embedding.tokens_BLD[0, embedding.mask_BL[0]].cpu().to(torch.float16).numpy()
        if not np.isfinite(tokens_LD).all():
            raise ForgeError(f"the embedding of metas/{stems[0]}.txt is too large for float16", "choose another model")
        _write(folder, stems, text, to_pickle(tokens_LD), model)
        step()


def give_caption(folder: Path, caption: str | None) -> list[str]:
    """Writes `metas/<stem>.txt` for videos without one, or says which these are."""
    videos = sorted(path for path in (folder / "videos").glob("*") if path.suffix.lower() == ".mp4")
    without = [video.stem for video in videos if not (folder / "metas" / f"{video.stem}.txt").exists()]
    names = ", ".join(without)
    if not without:
        return []
    if caption is None:
        return [f"videos without a caption, and so without an embedding: {names}; --caption gives them one"]
    for stem in without:
        _replace(folder / "metas" / f"{stem}.txt", caption.encode())
    return [f"captions written to metas: {names}"]


def report(folder: Path, work: Work, encoded: int, model: str) -> list[str]:
    """What was written, and what was not and why."""
    written = sum(map(len, work.todo.values()))
    said = [f"{written} embeddings written to {folder / 't5_xxl'}: {encoded} captions encoded by {model}"]
    if work.rewritten:
        said.append(f"written anew, for their captions had changed: {', '.join(work.rewritten)}")
    records = {stem: read_record(pickle_of(folder, stem)) for stem in work.kept}
    makers = {stem: record.model if record else None for stem, record in records.items()}
    said.append(f"{len(work.kept)} embeddings kept")
    unknown = [stem for stem, record in records.items() if record is None]
    if unknown:
        said.append(f"made elsewhere, so that a changed caption would not show: {', '.join(unknown)}; {NEW}")
    for maker in sorted({maker for maker in makers.values() if maker} - {model}):
        said.append(f"made by {maker}: {', '.join(stem for stem in makers if makers[stem] == maker)}; {NEW}")
    return said


def _write(folder: Path, stems: Iterable[str], caption: str, pickle: bytes, model: str | None) -> None:
    """A pickle without its record counts as made elsewhere, so the record comes last."""
    record = dump_record(Record(caption, model, hashlib.sha256(pickle).hexdigest()))
    for stem in stems:
        path = pickle_of(folder, stem)
        _replace(path, pickle)
        _replace(path.with_suffix(".json"), record)


def _replace(path: Path, data: bytes) -> None:
    """The file is whole or as it was."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(data)
        os.replace(unfinished, path)
    except OSError as error:
        raise ForgeError(
            f"{path} cannot be written: {error.strerror}", "the same command goes on where it stopped"
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)
