"""The order in which training takes clips."""

import os

import pytest
import torch

from cosmos_forge.errors import ForgeError
from cosmos_forge.stages.options import TrainOptions
from cosmos_forge.stages.prepare import choose_held_out
from cosmos_forge.stages.train import Share
from cosmos_forge.training.data import (
    Order,
    PreparedClip,
    clip_at,
    generator,
    pad_text,
    read_facts,
    require_tensors,
    save_latents,
    save_tensors,
)
from cosmos_forge.types import World


def test_every_clip_once_an_epoch_and_each_epoch_in_an_order_of_its_own():
    epochs = [[clip_at(20 * epoch + place, 20, seed=3) for place in range(20)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


SHAPES = [(16, 4, 8, 8)] * 7 + [(16, 2, 8, 8)] * 3 + [(16, 4, 4, 8)]  # 11 clips


@pytest.mark.parametrize("batch_size", [2, 4, 5])
def test_a_batch_has_one_shape_and_every_clip_its_turn(batch_size):
    """A lap of 11 steps shows each clip as often as a batch has places; within a shape none comes again early."""
    order, places = Order(SHAPES, batch_size, seed=0), 11 * batch_size
    for lap in range(3):
        taken = [order.clip(lap * places + place) for place in range(places)]
        assert sorted(taken) == sorted(list(range(11)) * batch_size)
        for step in range(11):
            assert len({SHAPES[clip] for clip in taken[step * batch_size : (step + 1) * batch_size]}) == 1
        for first, last in ((0, 7), (7, 10)):
            one_shape = [clip for clip in taken if first <= clip < last]
            for epoch in range(batch_size):
                once = one_shape[epoch * (last - first) : (epoch + 1) * (last - first)]
                assert sorted(once) == list(range(first, last))


def test_shapes_are_spread_over_a_lap():
    """Each quarter of a lap of 80 steps has its share of the rare shape, to within two; laps differ."""
    order = Order([(1,)] * 60 + [(2,)] * 20, 2, seed=0)
    laps = [[order.clip(2 * step) >= 60 for step in range(80 * lap, 80 * lap + 80)] for lap in range(2)]
    assert laps[0] != laps[1]
    assert all(3 <= sum(lap[quarter : quarter + 20]) <= 7 for lap in laps for quarter in range(0, 80, 20))


def test_where_all_is_of_one_shape_or_alone_nothing_is_sorted():
    for shapes, batch_size in (([(1,)] * 11, 4), (SHAPES, 1)):
        order = Order(shapes, batch_size, seed=3)
        assert [order.clip(place) for place in range(50)] == [clip_at(place, 11, seed=3) for place in range(50)]


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


def test_a_cache_that_was_cleared_is_told(tmp_path):
    def clip(name):
        for part in ("latents", "texts"):
            save_tensors(tmp_path / part / name, {"latents": torch.ones(3)})
        return PreparedClip(name, False, 24.0, "", str(tmp_path / "latents" / name), str(tmp_path / "texts" / name))

    clips = [clip("a"), clip("b"), clip("c")]
    require_tensors(clips)
    (tmp_path / "latents" / "a").unlink()
    os.truncate(tmp_path / "texts" / "c", 40)
    with pytest.raises(ForgeError, match=f"2 of 3 prepared clips are gone from {tmp_path}") as error:
        require_tensors(clips)
    assert "`forge prepare`" in error.value.problems[0].fix


def test_what_is_known_of_latents_without_reading_them(tmp_path):
    path = tmp_path / "a.safetensors"
    assert read_facts(path) is None
    save_latents(path, torch.zeros(16, 3, 4, 6, dtype=torch.bfloat16), 30000 / 1001)
    assert read_facts(path) == ((16, 3, 4, 6), 30000 / 1001)
    for size in (path.stat().st_size - 1, 20, 0):  # as a power cut may leave it
        os.truncate(path, size)
        assert read_facts(path) is None


def test_padding_is_zero_and_masked():
    text = pad_text(torch.ones(3, 4), 5)
    assert text.tokens_BLD.sum() == 12
    assert text.mask_BL.tolist() == [[True, True, True, False, False]]
