"""Whatever befalls a run, the same command again ends where an undisturbed run does, bit by bit."""

import json
import random
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from cosmos_forge import events

STAGES = ("prepare", "train", "train", "generate")
LONGEST = {"begins": 2.5, "works": 0.8}  # seconds: about what a stage takes to start, and to work, here
LORA = ["method.use=lora", "method.rank=4", "train.ema=true"]
HOWS = ("interrupt", "terminate", "kill", "kill-worker")
FATES = {how: ([how], "full", []) for how in HOWS} | {"lora-and-ema": (HOWS, "lora", LORA)}


@pytest.fixture(scope="module")
def undisturbed(workplace):
    workplace.run("full")
    workplace.run("lora", *LORA)


@pytest.fixture(scope="module")
def struck(workplace, undisturbed, strike):
    """The runs of FATES, struck in every stage and then left alone, two at a time; how often each was hit at work."""

    def suffer(fate: str) -> int:
        hows, _, overrides = FATES[fate]
        chance, hit = random.Random(fate), 0
        command = workplace.command(fate, f"prepare.cache=cache-{fate}", *overrides)
        for stage in STAGES:
            when = chance.choice(list(LONGEST))
            blow = strike(chance.choice(hows), stage, when, chance.uniform(0, LONGEST[when]))
            workers = blow.befall(workplace, *command)
            hit += bool(workers)
            _, alive = psutil.wait_procs(workers, timeout=5)
            assert not alive, f"after {blow} its worker lives on"
        workplace.forge(*command)
        return hit

    with ThreadPoolExecutor(2) as pool:
        yield {fate: pool.submit(suffer, fate) for fate in FATES}


@pytest.mark.parametrize("fate", FATES)
def test_a_run_goes_on_as_if_nothing_had_happened(workplace, struck, fate):
    _, like, _ = FATES[fate]
    assert struck[fate].result() >= 2, "too few blows met a worker to mean anything"
    assert workplace.weights(fate) == workplace.weights(like)
    assert workplace.losses(fate) == workplace.losses(like)
    metrics, expected = (json.loads((workplace.of(name) / "metrics.json").read_text()) for name in (fate, like))
    assert {**metrics, "train_seconds": 0} == {**expected, "train_seconds": 0}
    left = [path for path in workplace.leftovers() if fate in path.parts or f"cache-{fate}" in path.parts]
    assert not left


@pytest.mark.parametrize("how", ["interrupt", "terminate"])
def test_one_who_stops_a_run_is_told_that_it_goes_on(workplace, undisturbed, strike, how):
    name = f"told-{how}"
    command = workplace.command(name, "train.steps=2000", 'stages=["prepare", "train"]')
    strike(how, "train", "works", 0.3).befall(workplace, *command)
    failed = [event for event in workplace.events(name) if isinstance(event, events.StageFailed)]
    assert [(event.stage, event.interrupted) for event in failed] == [("train", True)]
    saved = [event.step for event in workplace.events(name) if isinstance(event, events.Saved)]
    last = max(workplace.losses(name))
    assert 0 <= saved[-1] - last < 3, "nothing that was done is lost"
    assert "interrupted" in workplace.forge("watch", name, code=1)
