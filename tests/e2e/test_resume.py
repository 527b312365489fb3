"""Whatever befalls a run, the same command again ends where an undisturbed run does, bit by bit."""

import json
import random
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

import psutil
import pytest

from cosmos_forge import events

EITHER = ("begins", "works")
BLOWS = (("prepare", EITHER), ("train", ("works",)), ("train", ("works",)), ("generate", EITHER))
LONGEST = {"begins": 1.8, "works": 0.8}  # seconds: about what a stage takes to start, and to work, here
LORA = ["method.use=lora", "method.rank=4", "train.ema=true"]
ASKED, KILLED = ("interrupt", "terminate"), ("kill", "kill-worker")
FATES = {  # how a run is struck, in turn; which run it must equal; its overrides
    "asked": (ASKED, "full", []),
    "killed": (KILLED, "full", []),
    "lora-and-ema": (ASKED + KILLED, "lora", LORA),
}


@pytest.fixture(scope="module")
def runs(workplace, strike):
    """Runs, two at a time: `full` and `lora`, which nothing befell, and those of FATES, struck in every stage and then
    left alone. Each gives how often it was struck at work."""

    def suffer(fate: str) -> int:
        hows, _, overrides = FATES[fate]
        chance, struck = random.Random(fate), 0
        command = workplace.command(fate, f"prepare.cache=cache-{fate}", f"dataset.path=clips-{fate}", *overrides)
        for (stage, whens), how in zip(BLOWS, cycle(hows), strict=False):
            when = chance.choice(whens)
            blow = strike(how, stage, when, chance.uniform(0, LONGEST[when]))
            workers = blow.befall(workplace, *command)
            struck += bool(workers)
            _, alive = psutil.wait_procs(workers, timeout=5)
            assert not alive, f"after {blow} its worker lives on"
        workplace.forge(*command)
        return struck

    with ThreadPoolExecutor(2) as pool:
        undisturbed = {"full": pool.submit(workplace.run, "full"), "lora": pool.submit(workplace.run, "lora", *LORA)}
        yield undisturbed | {fate: pool.submit(suffer, fate) for fate in FATES}


@pytest.mark.parametrize("fate", FATES)
def test_a_run_goes_on_as_if_nothing_had_happened(workplace, runs, fate):
    _, like, _ = FATES[fate]
    assert runs[like].result()
    assert runs[fate].result() >= 3, "too few blows met a worker to mean anything"
    assert workplace.weights(fate) == workplace.weights(like)
    assert workplace.losses(fate) == workplace.losses(like)
    metrics, expected = (json.loads((workplace.of(name) / "metrics.json").read_text()) for name in (fate, like))
    assert {**metrics, "train_seconds": 0} == {**expected, "train_seconds": 0}
    assert not [path for path in workplace.leftovers() if any(fate in part for part in path.parts)]


def test_one_who_stops_a_run_is_told_that_it_goes_on(workplace, strike):
    command = workplace.command("told", "train.steps=2000", 'stages=["prepare", "train"]')
    strike("interrupt", "train", "works", 0.3).befall(workplace, *command)
    failed = [event for event in workplace.events("told") if isinstance(event, events.StageFailed)]
    assert [(event.stage, event.interrupted) for event in failed] == [("train", True)]
    saved = [event.step for event in workplace.events("told") if isinstance(event, events.Saved)]
    assert 0 <= saved[-1] - max(workplace.losses("told")) < 3, "nothing that was done is lost"
    assert "interrupted" in workplace.forge("watch", "told", code=1)


def test_killed_again_and_again(tmp_path):
    """A few of the kills that the script takes by itself, of processes that share the weights."""
    command = [sys.executable, str(Path(__file__).parent / "kill_many.py")]
    options = ["--kills", "2", "--steps", "40", "--use", "fsdp"]
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    # The first kill may come before anything is saved.
    assert re.search(r"2 kills, [12] resumptions .* are bit-identical", done.stdout), done.stdout
