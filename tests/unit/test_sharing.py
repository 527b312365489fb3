"""How videos are shared out over processes, and what is said of it."""

import pytest

from cosmos_forge.generation.sharing import Share, Split, choose, explained, split


@pytest.mark.parametrize(
    ("processes", "videos", "guided", "heads", "found"),
    [
        (1, 1, True, 32, Split()),
        (2, 1, True, 32, Split(branches=2)),
        (4, 1, True, 32, Split(branches=2, context=2)),
        (8, 1, False, 32, Split(context=8)),
        (8, 3, True, 32, Split(branches=2)),  # two each, one pair is left over
        (8, 8, True, 32, Split()),
        (2, 5, True, 32, Split()),
        (3, 1, True, 32, Split(branches=2)),  # three cannot share 32 heads
        (3, 1, True, 30, Split(context=3)),
        (8, 1, True, None, Split(branches=2)),  # a network that cannot share tokens
        (8, 1, False, None, Split()),
    ],
)
def test_auto(processes, videos, guided, heads, found):
    assert choose(processes, videos, guided, heads) == found
    assert found.processes * min(videos, processes // found.processes) <= processes


def test_what_cannot_be_split():
    assert split(4, False, None) is None and split(3, True, 32) is None and split(6, True, 32) is None
    assert split(1, True, None) == Split()


def test_every_video_is_made_once():
    """By all processes of one team; those left over make none, and one of each team writes."""
    videos = list(range(7))
    for size, world in ((1, 3), (2, 4), (2, 5), (4, 4)):
        shares = [Share(rank // size, world // size, rank % size == 0, Split(branches=size)) for rank in range(world)]
        made = [video for share in shares if share.leads for video in share.mine(videos)]
        assert sorted(made) == videos, (size, world)
        for rank, share in enumerate(shares):
            assert share.mine(videos) == (shares[rank // size * size].mine(videos))
    assert Share(number=2, teams=2).mine(videos) == []


MANY = ["parallelism.use=ddp", "parallelism.num_processes=4"]


@pytest.mark.parametrize(
    ("overrides", "videos", "said"),
    [
        (
            MANY,
            1,
            "4 of 4 processes make a video together, for there are fewer videos (1) than processes: the two "
            "evaluations of guidance x tokens in 2 parts",
        ),
        ([*MANY, "generate.processes_per_video=2"], 9, "2 of 4 processes make a video together: the two"),
        (MANY, 4, "each process makes videos of its own"),
        (MANY, None, "each video by one process, or by several where there are fewer videos than processes"),
    ],
)
def test_it_is_explained(tmp_path, monkeypatch, overrides, videos, said):
    from cosmos_forge.planning import make_plan
    from cosmos_forge.plugins import load_plugins
    from cosmos_forge.recipe import read_recipe

    monkeypatch.setenv("FORGE_GPUS", "0")
    recipe = tmp_path / "r.toml"
    recipe.write_text(RECIPE)
    plan = make_plan(read_recipe(recipe, overrides), load_plugins(), runs=tmp_path)
    assert explained(plan, videos).startswith(said)


RECIPE = """
stages = ["generate"]
[dataset]
use = "toy-physics"
[latent_tokenizer]
use = "toy"
[text_encoder]
use = "toy"
[model]
use = "cosmos1-video2world"
variant = "tiny"
[sampler]
use = "euler"
[parallelism]
use = "single"
[generate]
guidance = 7.0
[prepare]
held_out = 4
"""
