"""A dataset's captions and the files beside them, as Cosmos post-training lays them out. Imports no torch, no numpy.

videos/<stem>.mp4       the clips
metas/<stem>.txt        the caption: the whole file, without space around it
t5_xxl/<stem>.pickle    its embedding
t5_xxl/<stem>.json      what the embedding was made of, where `forge embed` made it; the reference knows nothing of it
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from cosmos_forge import ForgeError

SHOWN = 80  # characters of a prompt
WRITE = "`forge embed {}` writes embeddings for captions that have none, and anew for those that have changed"


def pickle_of(folder: Path, stem: str) -> Path:
    return folder / "t5_xxl" / f"{stem}.pickle"


def read_captions(folder: Path) -> tuple[dict[str, str], list[str]]:
    """Captions by stem, in the order of their names, and lines on files that are not used. Raises ForgeError."""
    if not folder.is_dir():
        raise ForgeError(f"there is no folder {folder}", "give the folder that holds `metas` and `t5_xxl`")
    captions: dict[str, str] = {}
    unused = []
    for path in sorted((folder / "metas").glob("*.txt")):
        try:
            captions[path.stem] = path.read_text(encoding="utf-8").strip()
        except UnicodeDecodeError:
            unused.append(f"the caption metas/{path.name} is not UTF-8 text, and not used")
    unused += [f"the caption metas/{stem}.txt is empty, and not used" for stem, text in captions.items() if not text]
    captions = {stem: text for stem, text in captions.items() if text}
    pickles = sorted((folder / "t5_xxl").glob("*.pickle"))
    unused += [
        f"t5_xxl/{path.name} has no caption in metas, and is not used" for path in pickles if path.stem not in captions
    ]
    if not captions:
        raise ForgeError(f"{folder} holds no captions", "put them into `metas/*.txt`, named like their videos")
    return captions, unused


@dataclass(frozen=True)
class Record:
    """What a pickle was made of. model: T5 and precision, None where not known. sha256: of the pickle."""

    caption: str
    model: str | None
    sha256: str


def read_record(pickle: Path) -> Record | None:
    """What is known of a pickle; None where nothing is, or where it speaks of a file that has been replaced since."""
    try:
        record = Record(**json.loads(pickle.with_suffix(".json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return record if record.sha256 == digest(pickle) else None


def dump_record(record: Record) -> bytes:
    return (json.dumps(asdict(record), indent=2, ensure_ascii=False) + "\n").encode()


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def changed(folder: Path, captions: Mapping[str, str]) -> list[str]:
    """Stems whose caption is not the one that their embedding was made of, as far as that is known."""
    return [stem for stem, caption in captions.items() if _other(pickle_of(folder, stem), caption)]


def _other(pickle: Path, caption: str) -> bool:
    if not (pickle.exists() and pickle.with_suffix(".json").exists()):
        return False
    record = read_record(pickle)
    return record is not None and record.caption != caption


def by_caption(folder: Path, captions: Mapping[str, str]) -> dict[str, list[Path]]:
    """The pickles of each caption; more than one where captions are equal, an empty list where there is none."""
    found: dict[str, list[Path]] = {caption: [] for caption in captions.values()}
    for stem, caption in captions.items():
        path = pickle_of(folder, stem)
        found[caption] += [path] if path.exists() else []
    return found


def fingerprint(folder: Path) -> str:
    """Changes whenever captions or embeddings do: of the names, sizes and times of change of their files."""
    files = sorted([*(folder / "metas").glob("*.txt"), *(folder / "t5_xxl").glob("*.pickle")])
    facts = [(path.name, stat.st_size, stat.st_mtime_ns) for path in files for stat in [path.stat()]]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def faults(folder: Path) -> Iterator[tuple[str, str]]:
    """What keeps the folder's embeddings from being those of its captions: what, and how to mend it."""
    try:
        captions, _ = read_captions(folder)
    except ForgeError as error:
        yield from ((problem.what, problem.fix) for problem in error.problems)
        return
    pickles = by_caption(folder, captions)
    if missing := [f"metas/{stem}.txt" for stem, caption in captions.items() if not pickles[caption]]:
        what = f"{len(missing)} of {len(captions)} captions in {folder} have no embedding: {', '.join(missing)}"
        yield what, WRITE.format(folder)
    if old := [f"metas/{stem}.txt" for stem in changed(folder, captions)]:
        yield f"{len(old)} captions have changed since they were encoded: {', '.join(old)}", WRITE.format(folder)


def unknown(prompt: str, captions: Iterable[str]) -> tuple[str, str]:
    """What to say of a prompt that is no caption, with the one that comes nearest by its beginning; and the way out."""
    (near,) = difflib.get_close_matches(prompt[:SHOWN], [caption[:SHOWN] for caption in captions], n=1, cutoff=0)
    what = f"no caption reads {prompt[:SHOWN]!r}, so there is no embedding of it; the nearest is {near!r}"
    return what, '`use = "t5"` encodes any prompt; or make it a caption in `metas`, which `forge embed` encodes'
