"""The order in which training takes clips."""

import pytest
import torch

from cosmos_forge.data import clip_at, generator, pad_text
from cosmos_forge.errors import ForgeError
from cosmos_forge.stages.options import TrainOptions
from cosmos_forge.stages.prepare import choose_held_out
from cosmos_forge.stages.train import Share
from cosmos_forge.types import World


def test_every_clip_once_an_epoch_and_each_epoch_in_an_order_of_its_own():
    epochs = [[clip_at(20 * epoch + place, 20, seed=3) for place in range(20)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


@pytest.mark.parametrize(("size", "micro"), [(1, None), (2, None), (2, 2), (1, 3), (4, 1)])
def test_processes_and_accumulation_together_take_the_same_samples(size, micro):
    options = TrainOptions(steps=3, batch_size=12, micro_batch_size=micro, lr=1.0)
    taken = [[], [], []]
    for rank in range(size):
        share = Share(options, World(rank=rank, size=size, data_rank=rank, data_size=size))
        for number, places in enumerate(share.positions(0)):
            taken[number // share.accumulate] += places
    assert [sorted(step) for step in taken] == [list(range(12 * step, 12 * step + 12)) for step in range(3)]


def test_a_resumed_run_takes_what_the_undisturbed_one_would():
    share = Share(TrainOptions(steps=9, batch_size=4, lr=1.0), World())
    assert list(share.positions(5)) == list(share.positions(0))[5:]


def test_generators_differ_by_what_they_are_for():
    draws = {
        float(torch.rand((), generator=generator(*key))) for key in [(0, "a", 1), (0, "a", 2), (1, "a", 1), (0, "b", 1)]
    }
    assert len(draws) == 4
    assert torch.equal(torch.rand(3, generator=generator(5, "x")), torch.rand(3, generator=generator(5, "x")))


def test_adding_clips_leaves_most_held_out_where_they_are():
    before = choose_held_out({f"clip{i}" for i in range(50)}, 5, seed=0)
    after = choose_held_out({f"clip{i}" for i in range(55)}, 5, seed=0)
    assert len(before) == len(after) == 5
    assert len(before & after) >= 3


def test_holding_out_everything_is_refused():
    with pytest.raises(ForgeError, match="leaves nothing to train on"):
        choose_held_out({"a", "b"}, 2, seed=0)


def test_padding_is_zero_and_masked():
    text = pad_text(torch.ones(3, 4), 5)
    assert text.tokens_BLD.sum() == 12
    assert text.mask_BL.tolist() == [[True, True, True, False, False]]
