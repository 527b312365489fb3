"""`python -m cosmos_forge.survey.listing FOLDER`: the clips of a plan's dataset, a line of JSON each.

For datasets that tell nothing before they are built: this builds one, in a process of its own since that may take
torch, and reads every clip.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from cosmos_forge.errors import ForgeError

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan


def list_clips(plan: Plan) -> Iterator[dict[str, Any]]:
    """As that process finds them: key, caption, fingerprint, frames, fps, height and width of a clip, `total` of all;
    key and reason of one that is left out; or `problems`. Raises ForgeError where it ends otherwise."""
    with TemporaryDirectory() as scratch:
        (Path(scratch) / "recipe.toml").write_text(plan.dumps(), encoding="utf-8")
        command = [sys.executable, "-m", "cosmos_forge.survey.listing", scratch]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None and process.stderr is not None
            for line in process.stdout:
                yield json.loads(line)
            last = process.stderr.read().strip().splitlines()[-1:]
        if process.returncode:
            raise ForgeError(f"the dataset `{plan.use('dataset')}` cannot be listed: {''.join(last)}")


def _say(**item: Any) -> None:
    sys.__stdout__.write(json.dumps(item) + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


def _list(folder: Path) -> None:
    import torch

    from cosmos_forge.plan import load_plan
    from cosmos_forge.types import World
    from cosmos_forge.worker import component, make_context

    plan = load_plan(folder, "prepare")
    try:
        dataset = component(plan, "dataset", make_context(plan, World(), torch.float32, lambda event: None))
    except ForgeError as error:
        _say(problems=[{"what": problem.what, "fix": problem.fix} for problem in error.problems])
        return
    for rejected in dataset.rejected:
        _say(key=rejected.key, reason=rejected.reason, total=len(dataset))
    for index in range(len(dataset)):
        about = {"key": dataset.key(index), "caption": dataset.caption(index), "total": len(dataset)}
        try:
            clip = dataset[index]
        except ForgeError as error:
            _say(**about, reason=error.problems[0].what)
            continue
        _, frames, height, width = clip.frames_CTHW.shape
        shape = {"frames": frames, "height": height, "width": width, "fps": clip.fps}
        _say(**about, **shape, fingerprint=dataset.fingerprint(index))


if __name__ == "__main__":
    sys.stdout = sys.stderr  # whatever a stranger's dataset prints
    _list(Path(sys.argv[1]))
