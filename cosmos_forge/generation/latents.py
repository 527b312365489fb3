"""What is sampled and not yet decoded: on disk, so that whoever goes on after an interruption begins with it.

`latents/NAME.safetensors` of the run, of a video or of one chunk of it; it goes once what it becomes is there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from cosmos_forge.files import atomic
from cosmos_forge.training.data import is_whole


@dataclass(frozen=True)
class Latents:
    """Of one job, in the file `path`. made_with: all that decides them, as JSON knows it."""

    path: Path
    made_with: Mapping[str, Any]

    def are_there(self) -> bool:
        """Whether they were sampled before, with these settings, and are whole."""
        if not is_whole(self.path):
            return False
        with safe_open(self.path, "pt") as file:
            return bool(json.loads(file.metadata()["made_with"]) == self.made_with)

    def write(self, latents_BCTHW: Tensor) -> None:
        with atomic(self.path) as temporary:
            save_file({"latents": latents_BCTHW}, temporary, {"made_with": json.dumps(self.made_with)})

    def read(self) -> Tensor:
        """BCTHW, as written."""
        with safe_open(self.path, "pt") as file:
            latents_BCTHW: Tensor = file.get_tensor("latents")
        return latents_BCTHW

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)
