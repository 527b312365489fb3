"""A workplace where `forge` is run as a person runs it: a folder with a small recipe, and processes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch

from cosmos_forge import events
from cosmos_forge.files import sha256
from cosmos_forge.training import checkpoint

RECIPE = """\
stages = ["prepare", "train", "export", "generate"]
precision = "fp32"
device = "cpu"

[dataset]
use = "toy-physics"
path = "clips"
clips = 6
height = 32
width = 32

[latent_tokenizer]
use = "toy"

[text_encoder]
use = "toy"

[model]
use = "cosmos1-video2world"
variant = "tiny"

[method]
use = "full"

[parallelism]
use = "single"

[sampler]
use = "euler"
steps = 4

[prepare]
held_out = 2

[train]
steps = 90
batch_size = 4
lr = 1e-3
eps = 1e-8
save_every = 7
log_every = 3

[generate]
given_frames = 9
guidance = 0.0
"""

# Trains nothing; what is to be generated is said by recipes that extend it.
GENERATES = """\
stages = ["generate"]
precision = "fp32"
device = "cpu"

[latent_tokenizer]
use = "toy"

[text_encoder]
use = "toy"

[model]
use = "cosmos1-video2world"
variant = "tiny"

[parallelism]
use = "single"

[sampler]
use = "euler"
steps = 2
"""


@dataclass
class Workplace:
    """folder: the working directory, with `small.toml`, `generates.toml` and `runs/`."""

    folder: Path

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen:
        """`forge` with these arguments, not waited for; what it says is in one stream."""
        return subprocess.Popen(
            [sys.executable, "-m", "cosmos_forge", *arguments],
            cwd=self.folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "FORGE_GPUS": "0", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
        )

    def forge(self, *arguments: str, code: int = 0, **environment: str) -> str:
        """What `forge` says; it has to end with the exit code `code`, and never with a traceback."""
        process = self.start(*arguments, **environment)
        said = process.communicate(timeout=300)[0]
        assert process.returncode == code, said
        assert "Traceback" not in said
        return said

    def run(self, name: str, *overrides: str, code: int = 0) -> str:
        """`forge run` of the small recipe."""
        return self.forge(*self.command(name, *overrides), code=code)

    def command(self, name: str, *overrides: str) -> list[str]:
        return ["run", "small.toml", "--name", name, *overrides]

    def train(self, name: str, *overrides: str, code: int = 0) -> str:
        """`forge run` of training alone, on clips that are prepared once for all runs."""
        return self.forge(*self.training(name, *overrides), code=code)

    def training(self, name: str, *overrides: str) -> list[str]:
        """The command that does so."""
        if not self.of("clips").exists():
            self.run("clips", 'stages=["prepare"]')
        if not self.of(name).exists():
            shutil.copytree(self.of("clips") / "prepared", self.of(name) / "prepared")
        return self.command(name, 'stages=["train"]', *overrides)

    def of(self, name: str) -> Path:
        """A run's directory."""
        return self.folder / "runs" / name

    def events(self, name: str, offset: int = 0) -> list[events.Event]:
        return [stamped.event for stamped in events.read(self.of(name) / "events.jsonl", offset)[0]]

    def losses(self, name: str) -> dict[int, tuple]:
        """By step what was last reported of it and does not depend on the clock."""
        steps = [event for event in self.events(name) if isinstance(event, events.Step)]
        return {step.step: (step.loss, step.metrics, step.lr, step.grad_norm) for step in steps}

    def weights(self, name: str) -> str:
        """Digest of what was exported."""
        return sha256(self.of(name) / "export" / "model.safetensors")

    def state(self, name: str, prefix: str = "", step: int | None = None) -> dict[str, torch.Tensor]:
        """Tensors of the newest checkpoint, or of a step's."""
        folder = self.of(name) / "checkpoints"
        which = checkpoint.latest(folder) if step is None else folder / checkpoint.folder_of(step)
        return checkpoint.load(which, prefix)

    def leftovers(self) -> list[Path]:
        """Files and folders that were never finished."""
        return list(self.folder.rglob(".*.partial*"))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Workplace:
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "small.toml").write_text(RECIPE)
    (folder / "generates.toml").write_text(GENERATES)
    return Workplace(folder)


@dataclass
class Strike:
    """Something that befalls a run. how: interrupt, terminate (to the launcher), kill (it) or kill-worker. when: begins
    (the stage's processes start) or works (it reports the first progress). delay: seconds after that."""

    how: str
    stage: str
    when: str
    delay: float

    def befall(self, workplace: Workplace, *command: str) -> list[psutil.Process]:
        """Runs the command and ends it so; returns the workers that it then had."""
        name = command[command.index("--name") + 1]
        log = workplace.of(name) / "events.jsonl"
        before = log.stat().st_size if log.exists() else 0
        launcher = workplace.start(*command)
        while launcher.poll() is None and not self._is_time(workplace.events(name, before)):
            time.sleep(0.02)
        time.sleep(self.delay)
        workers = []
        if launcher.poll() is None:
            workers = psutil.Process(launcher.pid).children()
            self._hit(launcher, workers)
        launcher.communicate(timeout=120)
        return workers

    def _is_time(self, so_far: list[events.Event]) -> bool:
        stage, working = None, False
        for event in so_far:
            if isinstance(event, events.StageStarted):
                stage = event.stage
            working = working or (stage == self.stage and isinstance(event, (events.Progress, events.Step)))
        return working if self.when == "works" else stage == self.stage

    def _hit(self, launcher: subprocess.Popen, workers: list[psutil.Process]) -> None:
        if self.how == "kill-worker":
            for worker in workers[-1:]:
                worker.kill()
        else:
            signals = {"interrupt": signal.SIGINT, "terminate": signal.SIGTERM, "kill": signal.SIGKILL}
            launcher.send_signal(signals[self.how])


@pytest.fixture(scope="session")
def strike() -> type[Strike]:
    return Strike
