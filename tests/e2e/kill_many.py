"""Kills a small training again and again, goes on each time, and compares its end with an undisturbed one's, bit by
bit.

    python tests/e2e/kill_many.py
    python tests/e2e/kill_many.py --kills 6 --use fsdp --processes 2

`kill -9`, SIGTERM and SIGINT take turns, on the launcher and on a worker. A kill comes when a step drawn at random is
reported, and up to four steps' time after that: while a step is computed, while a checkpoint is written, or between.
What is compared: every file of the last checkpoint (weights, their averages, both moments of AdamW) and every number
that was ever reported of a step but its times. Ends with exit code 1 where anything differs.
"""

from __future__ import annotations

import argparse
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import cycle
from pathlib import Path

import psutil
from conftest import RECIPE, Workplace

from cosmos_forge import events
from cosmos_forge.files import sha256
from cosmos_forge.training import checkpoint

BLOWS = [(sent, whom) for sent in ("SIGKILL", "SIGTERM", "SIGINT") for whom in ("launcher", "worker")]
SETTINGS = ['stages=["prepare", "train"]', "train.ema=true", "train.save_every=4", "train.log_every=3"]
PATIENCE_SECONDS = 120.0


def main() -> int:
    options = parse()
    with tempfile.TemporaryDirectory() as folder:
        workplace = Workplace(Path(folder))
        (workplace.folder / "small.toml").write_text(RECIPE)
        spread = [f"parallelism.use={options.use}"]
        spread += [f"parallelism.num_processes={options.processes}"] if options.use != "single" else []
        settings = [*SETTINGS, f"train.steps={options.steps}", *spread]
        workplace.run("whole", *settings)
        pace = statistics.median(each.seconds for each in workplace.events("whole") if isinstance(each, events.Step))
        chance = random.Random(options.seed)
        targets = sorted(chance.sample(range(1, options.steps * 3 // 4), options.kills))
        done = []
        for target, (sent, whom) in zip(targets, cycle(BLOWS), strict=False):
            late = chance.uniform(0, 4 * pace)
            place = kill(workplace, workplace.command("struck", *settings), target, sent, whom, late, chance)
            print(f"{sent} to the {whom} {late:.3f} s after step {place} was reported", flush=True)
            done.append(place)
        workplace.run("struck", *settings)
        return compare(workplace, len(done))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=240, help="of the whole training")
    parser.add_argument("--use", default="single", choices=["single", "ddp", "fsdp"])
    parser.add_argument("--processes", type=int, default=2, help="with ddp or fsdp")
    parser.add_argument("--seed", type=int, default=0, help="decides when and whom a kill hits")
    return parser.parse_args()


def kill(
    workplace: Workplace, command: list[str], target: int, sent: str, whom: str, late: float, chance: random.Random
) -> int:
    """Goes on with the run and kills it once step `target` is reported; returns the step last reported by then."""
    log = workplace.of("struck") / "events.jsonl"
    before = log.stat().st_size if log.exists() else 0
    launcher = workplace.start(*command)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (place := last_step(workplace, before)) < target:
        if launcher.poll() is not None or time.monotonic() > deadline:
            launcher.kill()
            sys.exit(f"training did not come to step {target}, but to {place}:\n{launcher.communicate()[0]}")
        time.sleep(0.01)
    time.sleep(late)
    workers = psutil.Process(launcher.pid).children()
    if launcher.poll() is not None or not workers:
        sys.exit(f"training ended before it could be killed at step {target}; take more --steps, or fewer --kills")
    victim = launcher.pid if whom == "launcher" else chance.choice(workers).pid
    psutil.Process(victim).send_signal(signal.Signals[sent])
    try:
        launcher.communicate(timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        launcher.kill()
        sys.exit(f"{sent} to the {whom} did not end the run")
    _, alive = psutil.wait_procs(workers, timeout=10)
    if alive:
        sys.exit(f"a worker lives on after {sent} to the {whom}")
    return place


def last_step(workplace: Workplace, offset: int) -> int:
    """The step last reported in this attempt; 0 if none was."""
    return max((each.step for each in workplace.events("struck", offset) if isinstance(each, events.Step)), default=0)


def reported(workplace: Workplace, name: str) -> dict[int, set[str]]:
    """By step all that was ever reported of it, but what depends on the clock."""
    found: dict[int, set[str]] = {}
    for each in workplace.events(name):
        if isinstance(each, events.Step):
            what = (each.loss, each.metrics, each.lr, each.grad_norm, each.left_out)
            found.setdefault(each.step, set()).add(repr(what))
    return found


def compare(workplace: Workplace, kills: int) -> int:
    """Says what differs between the two runs; returns the exit code."""
    ends = {name: checkpoint.latest(workplace.of(name) / "checkpoints") for name in ("whole", "struck")}
    files = {name: {path.name: sha256(path) for path in end.iterdir()} for name, end in ends.items() if end}
    reports = {name: reported(workplace, name) for name in ends}
    resumed = [each.step for each in workplace.events("struck") if isinstance(each, events.Resumed)]
    wrong = [f"files of the last checkpoint: {files}"] * (files["whole"] != files["struck"])
    for step in sorted(reports["whole"].keys() | reports["struck"].keys()):
        whole, struck = (reports[name].get(step, set()) for name in ("whole", "struck"))
        if whole != struck or len(whole) > 1:
            wrong.append(f"report of step {step}: {whole} and {struck}")
    wrong += [f"left behind: {path}" for path in workplace.leftovers()]
    for line in wrong:
        print(f"DIFFERS: {line}")
    what = f"{kills} kills, {len(resumed)} resumptions after steps {', '.join(map(str, resumed))}"
    same = f"{len(files['whole'])} files of the last checkpoint and {len(reports['whole'])} reports are bit-identical"
    print(f"{what}: {'NOT the same' if wrong else same}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
