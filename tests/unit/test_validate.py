"""Judging leaves training as it found it; work is shared out so that all take part; plans that cannot be judged."""

from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from cosmos_forge.checks.validation import sampled_with, why_no_samples
from cosmos_forge.errors import ForgeError
from cosmos_forge.planning import make_plan
from cosmos_forge.recipe import read_recipe
from cosmos_forge.testing.fakes import TinyNet
from cosmos_forge.training import checkpoint
from cosmos_forge.training.ema import PowerEMA
from cosmos_forge.training.groups import from_all, leads, turns
from cosmos_forge.training.saving import Saver
from cosmos_forge.training.validate import Validation, spread
from cosmos_forge.types import World


class Watchful:
    """A parallelism that notes what weights are when it is told that they were replaced."""

    def __init__(self):
        self.seen = []

    def renew(self, net):
        self.seen.append(next(net.parameters()).detach().clone())


def test_what_is_judged_are_averages_and_then_all_is_as_it_was():
    net = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.Dropout(0.5))
    net[2].eval()
    ema = PowerEMA(dict(net.named_parameters()), 0.1)
    averages = {name: value.clone() for name, value in ema.averages.items()}
    for parameter in net.parameters():
        parameter.data += 1
    weights, chance = {name: value.detach().clone() for name, value in net.named_parameters()}, torch.get_rng_state()
    net.requires_grad_(True)
    net[0].bias.requires_grad_(False)

    validation, watchful = Validation.__new__(Validation), Watchful()
    validation.work = SimpleNamespace(model=SimpleNamespace(net=net), ema=ema)
    validation.context, validation.parallelism = SimpleNamespace(device=torch.device("cpu")), watchful
    with suppress(KeyError), validation._aside():  # whatever happens meanwhile
        assert not any(module.training for module in net.modules()) and not torch.is_grad_enabled()
        assert all(torch.equal(value, averages[name]) for name, value in net.named_parameters())
        torch.rand(3)
        raise KeyError

    assert [module.training for module in net] == [True, True, False] and net.training and torch.is_grad_enabled()
    assert [value.requires_grad for value in net.parameters()] == [True, False]
    assert torch.equal(torch.get_rng_state(), chance)
    assert all(torch.equal(value, weights[name]) for name, value in net.named_parameters())
    assert all(torch.equal(value, averages[name]) for name, value in ema.averages.items())
    assert torch.equal(watchful.seen[0], averages["0.weight"]) and torch.equal(watchful.seen[1], weights["0.weight"])


def test_nothing_is_compiled_while_judging():
    """A block that compiles itself would be compiled for other shapes, and training's graphs would change."""
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    net = TinyNet()
    net.blocks[0].compile(backend=backend)
    validation = Validation.__new__(Validation)
    validation.work = SimpleNamespace(model=SimpleNamespace(net=net), ema=None)
    validation.context, validation.parallelism = SimpleNamespace(device=torch.device("cpu")), Watchful()
    with validation._aside():
        net(torch.zeros(1, 5, 6))
    assert not compiled
    for _ in range(2):
        net(torch.zeros(2, 5, 6))
    assert len(compiled) == 1
    shapes = [node.meta["example_value"].shape for node in compiled[0].graph.nodes if node.op == "placeholder"]
    assert (2, 5, 10) in shapes, "another shape that was seen before must not make it a dynamic one"


@pytest.mark.parametrize("change", ["clips", "sigmas", "averages"])
def test_what_is_known_counts_only_where_the_same_is_judged(change):
    def known(saved, step, **changes):
        fields = {"clips": ["a", "b"], "sigmas": [1.0, 2.0], "averages": None, **changes}
        validation, said = Validation.__new__(Validation), []
        model = SimpleNamespace(sigmas=fields["sigmas"])
        validation.clips = [SimpleNamespace(key=key) for key in fields["clips"]]
        validation.work = SimpleNamespace(model=model, ema=fields["averages"], step=step, saved={"validated": saved})
        validation.context = SimpleNamespace(emit=lambda note: said.append(note.text))
        return validation._known(), said

    first, said = known({}, step=0)
    assert not said and first.keys() == {"of"}
    saved = {**first, "base": [3.0, 4.0], "best": 5, "loss": 2.0}
    assert known(saved, step=7) == (saved, [])
    other = {"clips": ["a", "c"], "sigmas": [1.0, 3.0], "averages": object()}[change]
    found, said = known(saved, step=7, **{change: other})
    assert found.keys() == {"of"} and "begins at step 7" in said[0]


@pytest.mark.parametrize(("count", "groups"), [(5, 2), (4, 2), (1, 3), (3, 1)])
def test_all_groups_take_as_many_turns_and_together_do_everything(count, groups):
    shares = [turns(count, World(rank, groups, rank, groups)) for rank in range(groups)]
    assert len({len(share) for share in shares}) == 1
    done = sorted(turn for share in shares for turn in share if turn < count)
    assert done == list(range(count))


def test_one_of_each_group_speaks():
    """Four processes, two to a sample."""
    assert [leads(World(rank, 4, rank // 2, 2)) for rank in range(4)] == [True, False, True, False]
    assert from_all({1: "b", 0: "a"}, World()) == ["a", "b"]


def test_many_clips_are_judged_by_some_from_all_over():
    assert spread(range(5), 8) == [0, 1, 2, 3, 4]
    assert spread(range(100), 4) == [0, 25, 50, 75]


def test_the_best_checkpoint_outlives_the_newest(tmp_path):
    """Losses fall, rise, and fall below the lowest so far."""
    best = {1: 1, 2: 2, 3: 2, 4: 2, 5: 5, 6: 5, 7: 5}
    with Saver(tmp_path / "checkpoints", keep=1) as saver:
        kept = []
        for step, which in best.items():
            saver.save(step, {"weights/a": torch.ones(2)}, {"best": which})
            saver.wait()
            kept.append([int(path.name[5:]) for path in checkpoint.committed(tmp_path / "checkpoints")])
    assert kept == [[1], [2], [2, 3], [2, 4], [5], [5, 6], [5, 7]]
    assert checkpoint.best(tmp_path / "checkpoints").name == "step-000000005"


def plan(workplace, plugins, *overrides, stages=("train",)):
    return make_plan(read_recipe(workplace / "r.toml", list(overrides)), plugins, stages=stages)


def test_plans_that_cannot_be_judged(workplace, plugins):
    for overrides, stages, told in (
        (["train.validate_every=5", "prepare.held_out=0"], ("train",), "has nothing to judge by"),
        (["train.validate_every=5", "generate.given_frames=17"], ("train",), "given_frames = 17 does not fit"),
        (["export.checkpoint='best'"], ("export",), "train.validate_every is not set"),
        (["export.checkpoint='best'", "train.validate_every=5", "prepare.held_out=0"], ("export",), "held_out is 0"),
    ):
        with pytest.raises(ForgeError, match=told):
            plan(workplace, plugins, *overrides, stages=stages)


def test_videos_are_made_where_there_is_a_sampler(workplace, plugins):
    """Only then do their components belong to training."""
    judged = plan(workplace, plugins, "train.validate_every=5")
    assert why_no_samples(judged) == "" and "sampler" in sampled_with(judged, ("train",))
    assert sampled_with(plan(workplace, plugins), ("train",)) == ()
    none = plan(workplace, plugins, "train.validate_every=5", "train.validate_samples=0")
    assert why_no_samples(none) == "train.validate_samples is 0" and sampled_with(none, ("train",)) == ()
    text = (workplace / "r.toml").read_text().replace('[sampler]\nuse = "tiny-sampler"\n', "")
    (workplace / "r.toml").write_text(text)
    assert why_no_samples(plan(workplace, plugins, "train.validate_every=5")) == "the recipe has no [sampler]"
