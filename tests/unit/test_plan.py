"""Plans: what is filled in, and every problem, told at its place with all the others."""

from pathlib import Path

import pytest

from cosmos_forge import machine
from cosmos_forge.changes import changes
from cosmos_forge.checks import shortages
from cosmos_forge.errors import ForgeError
from cosmos_forge.explain import explain
from cosmos_forge.planning import make_plan
from cosmos_forge.plugins import load_plugins
from cosmos_forge.recipe import read_recipe


@pytest.fixture
def plan_of(workplace, plugins):
    """Plans r.toml after replacing pieces of its text."""

    def plan_of(*replaced, overrides=(), **more):
        text = (workplace / "r.toml").read_text()
        for old, new in replaced:
            assert old in text
            text = text.replace(old, new)
        (workplace / "r.toml").write_text(text)
        return make_plan(read_recipe("r.toml", overrides), plugins, **more)

    return plan_of


@pytest.fixture
def problems_of(plan_of):
    def problems_of(*replaced, **more):
        with pytest.raises(ForgeError) as error:
            plan_of(*replaced, **more)
        return error.value.problems

    return problems_of


def test_a_plan_is_complete(plan_of, workplace):
    plan = plan_of()
    assert (plan.name, plan.folder, plan.recipe) == ("r", Path("runs/r"), Path("r.toml"))
    assert plan.stages == ("fetch", "prepare", "train", "export", "generate")
    assert list(plan.tables) == [
        *["", "model", "latent_tokenizer", "text_encoder", "dataset", "method", "parallelism", "sampler"],
        *["fetch", "prepare", "train", "export", "generate"],
    ]
    assert plan.train.steps == 100 and plan.train.clip_norm == 1.0
    assert plan.use("method") == "tiny-method" and plan.tables["method"].build == "tiny_plugin:build"
    assert plan.values("method") == {"use": "tiny-method", "rank": 4, "mood": "calm"}
    assert (plan.max_tokens, plan.processes, plan.video_size()) == (512, 1, (17, 64, 96))
    assert "weights" not in plan.values("model")
    assert not (workplace / "runs").exists()


def test_a_plan_written_down_makes_the_same_plan(plan_of, plugins, workplace):
    plan = plan_of(overrides=["seed=7", 'generate.prompt=a "cat" \\ # no comment', "train.betas=[0.5, 0.9]"])
    for comments in (False, True):
        (workplace / "all.toml").write_text(plan.dumps(comments))
        again = make_plan(read_recipe("all.toml"), plugins)
        assert {name: table.values() for name, table in again.tables.items()} == {
            name: table.values() for name, table in plan.tables.items()
        }
        assert again.dumps() == plan.dumps()
        assert changes(workplace / "all.toml", plan) == []


def test_comments_say_where_values_come_from(plan_of):
    lines = plan_of(overrides=["method.rank=2"]).dumps(comments=True).splitlines()
    assert 'use = "tiny-model"  # r.toml:4' in lines
    assert "rank = 2  # command line" in lines
    assert 'mood = "calm"  # default' in lines


def test_changes_name_keys_and_values(plan_of, workplace):
    (workplace / "old.toml").write_text(plan_of(overrides=["generate.prompt=hi"]).dumps())
    found = changes(workplace / "old.toml", plan_of(overrides=["train.steps=5", "stages=['train']"]))
    assert {(change.name, change.old, change.new) for change in found} == {
        ("stages", '["fetch", "prepare", "train", "export", "generate"]', '["train"]'),
        ("train.steps", "100", "5"),
        ("generate.prompt", '"hi"', "unset"),
    }


def test_weights_of_runs_and_files(plan_of):
    plan = plan_of(runs=Path("elsewhere"))
    assert plan.resolve("run:kitchen") == Path("elsewhere/kitchen/export/model.safetensors")
    assert plan.resolve("data/w.pt") == Path("data/w.pt")


def test_the_recipe_of_a_run_continues_that_run(plan_of, plugins, workplace):
    plan = plan_of(name="kitchen")
    plan.folder.mkdir(parents=True)
    (plan.folder / "recipe.toml").write_text(plan.dumps())
    assert make_plan(read_recipe("runs/kitchen/recipe.toml"), plugins).name == "kitchen"


def test_some_stages_need_only_their_tables(plan_of):
    plan = plan_of(
        ('[dataset]\nuse = "tiny-data"\npath = "clips"\n', ""),
        ('[sampler]\nuse = "tiny-sampler"\n', ""),
        stages=("export",),
    )
    assert plan.stages == ("fetch", "prepare", "train", "export", "generate")


def one_line(problem) -> tuple[str, int | None]:
    return problem.what, problem.where.line if problem.where else None


@pytest.mark.parametrize(
    ("replaced", "overrides", "what", "line", "fix"),
    [
        (("rank = 4", "rnak = 4"), [], "[method] unknown key `rnak`", 18, "did you mean `rank`?"),
        (("rank = 4", "rank = 0"), [], "[method] rank must be at least 1, got 0", 18, "4 to 64 is usual"),
        (("rank = 4", "rank = 999"), [], "[method] rank must be at most 512, got 999", 18, "4 to 64 is usual"),
        (("rank = 4", "rank = 'four'"), [], "[method] rank: input should be a valid integer", 18, "4 to 64 is usual"),
        (
            ("tiny-method", "tiny-methdo"),
            [],
            "[method] no installed plugin offers the method `tiny-methdo`",
            17,
            "tiny-method",
        ),
        (('use = "tiny-method"', ""), [], "[method] needs `use`", 16, '"tiny-method"'),
        (("[sampler]", "[smapler]"), [], "[smapler] is not a table of recipes", 23, "did you mean `sampler`?"),
        (('"train", ', '"trian", '), [], "there is no stage `trian`", 1, "did you mean `train`?"),
        (('"train", ', '"train", "train", '), [], "a stage stands twice in stages", 1, "once"),
        (("stages =", "seeds = 1\nstages ="), [], "unknown key `seeds`", 1, "did you mean `seed`?"),
        (("stages =", "export = 1\nstages ="), [], "export is a table, not a key", 1, "[export]"),
        (("steps = 100\n", ""), [], "[train] `steps` is missing", 29, "optimizer steps"),
        (('path = "clips"\n', ""), [], "[dataset] `path` is missing", 12, "folder of the clips"),
        (('"clips"', '"clisp"'), [], "[dataset] folder clisp does not exist", 14, "folder of clips"),
        (('path = "clips"', 'path = "clips"\nnum_frames = 16'), [], "num_frames must be 8k+1, got 16", 15, "frames x"),
        (('path = "clips"', 'path = "clips"\nwidth = 90'), [], "multiples of 16, got 64x90", 15, "frames x"),
        (("lr = 1e-4", "lr = 0"), [], "[train] lr = 0 trains nothing", 31, "1e-4 is usual"),
        (("lr = 1e-4", "lr = -1"), [], "[train] lr must be at least 0", 31, "learning rate"),
        (("lr = 1e-4", "lr = nan"), [], "[train] lr", 31, "learning rate"),
        (("lr = 1e-4", "lr = inf"), [], "[train] lr: input should be a finite number", 31, "learning rate"),
        (("steps = 100", "steps = 0"), [], "[train] steps must be at least 1", 30, "optimizer steps"),
        (("lr = 1e-4", "lr = 1\nbetas = [0.9, 1.0]"), [], "betas must lie in [0, 1)", 32, ""),
        (("lr = 1e-4", "lr = 1\nbatch_size = 6\nmicro_batch_size = 4"), [], "multiples of 4", 33, "batch_size = 8"),
        (
            ("held_out = 1", "cache = 'r.toml/x'"),
            ["prepare.held_out=1"],
            "is no folder that can be written",
            27,
            "runs",
        ),
        (("held_out = 1", "held_out = 0"), [], "there is nothing to continue", 27, "prepare.held_out to 1"),
        (("lr = 1e-4", "lr = 1\n[generate]\ngiven_frames = 10"), [], "8k+1), got 10", 33, "given_frames = 9"),
        (("lr = 1e-4", "lr = 1\n[generate]\nchunk_frames = 18"), [], "num_frames must be 8k+1, got 18", 33, "frames x"),
        (("lr = 1e-4", "lr = 1\n[generate]\ngiven_frames = 17"), [], "leaves nothing to generate", 33, "usual"),
        (
            ("lr = 1e-4", "lr = 1\n[generate]\ninput = 'no.mp4'"),
            [],
            "input no.mp4 does not exist",
            33,
            "relative paths",
        ),
        (("lr = 1e-4", "lr = 1\n[generate]\nheight = 65"), [], "got 65x96", 33, "frames x"),
        (("lr = 1e-4", "lr = 1e-4"), ["device=cuda"], 'device is "cuda", but this machine shows no GPU', 1, "auto"),
        (("lr = 1e-4", "lr = 1e-4"), ["method.rank=0"], "[method] rank must be at least 1", 1, "4 to 64"),
        (
            ("tiny-method", "unlucky-method"),
            ["stages=['export']"],
            "unknown key `rank`",
            18,
            "forge plugins unlucky-method",
        ),
    ],
)
def test_one_problem(problems_of, replaced, overrides, what, line, fix):
    (problem,) = problems_of(replaced, overrides=overrides)
    assert what in problem.what
    assert (problem.where.line if problem.where else None) == line
    assert fix in problem.fix and "error: " + problem.what == problem.lines()[0]
    if line:
        assert problem.where.text == (
            overrides[0]
            if overrides and problem.where.file == "command line"
            else Path("r.toml").read_text().splitlines()[line - 1]
        )
        assert f"{problem.where.file}:{line}" in problem.lines()[1]


def test_an_empty_folder(problems_of, workplace):
    (workplace / "clips" / "a.mp4").unlink()
    assert [one_line(each) for each in problems_of()] == [("[dataset] folder clips is empty", 14)]


def test_all_problems_come_at_once_in_the_recipes_order(problems_of):
    found = problems_of(
        ("[model]", "[modle]"),
        ('path = "clips"', 'path = "nowhere"\nnum_frames = 18'),
        ("rank = 4", "rank = 0\nmodd = 1"),
        ("lr = 1e-4", "lr = 0"),
        overrides=["seed=-1", "text_encoder.max_tokens=0"],
    )
    assert [(Path(each.where.file).name, each.where.line) for each in found] == [
        ("r.toml", 3),  # [modle]
        ("r.toml", 14),  # path
        ("r.toml", 15),  # num_frames
        ("r.toml", 19),  # rank
        ("r.toml", 20),  # modd
        ("r.toml", 33),  # lr
        ("command line", 1),
        ("command line", 2),
    ]


def test_a_warm_up_that_outlasts_training_is_said(plan_of):
    """It is no mistake: a short trial of a recipe has one, and so has the reference's own experiment."""
    assert "warm-up" not in explain(plan_of(overrides=["train.warmup_steps=100"]))
    said = explain(plan_of(overrides=["train.warmup_steps=250"]))
    assert "train.lr is never reached: its warm-up has 250 steps, training 100, the last at 0.396 of it" in said


@pytest.mark.parametrize("fault", ["dataset.use=nope", "dataset.balls=-1"])
def test_a_faulty_dataset_makes_no_faults_of_sizes(fault):
    """Videos to generate are as large as its clips, which is then unknown, not as published."""
    with pytest.raises(ForgeError) as error:
        make_plan(read_recipe("quickstart.toml", [fault]), load_plugins())
    assert len(error.value.problems) == 1


def test_a_picture_may_be_continued_though_videos_give_more_frames(plan_of, workplace):
    (workplace / "a.png").write_bytes(b"")
    plan = plan_of(overrides=["generate.input=a.png", "prepare.held_out=0"])
    assert (plan.generate.input, plan.generate.given_frames) == ("a.png", 9)


def test_a_video_without_a_dataset_is_of_the_published_size(plan_of, workplace):
    (workplace / "a.mp4").write_bytes(b"")
    plan = plan_of(
        ('[dataset]\nuse = "tiny-data"\npath = "clips"\n', ""),
        overrides=["stages=['generate']", "generate.input=a.mp4", "generate.height=480"],
    )
    assert plan.video_size() == (121, 480, 1280)


def test_batches_are_shared_out_over_the_gpus(plan_of, problems_of, monkeypatch):
    monkeypatch.setenv("FORGE_GPUS", "4")
    (problem,) = problems_of(("lr = 1e-4", "lr = 1\nbatch_size = 6"))
    assert "4 processes take multiples of 4" in problem.what and problem.fix == "batch_size = 8"
    assert plan_of(overrides=["train.batch_size=8"]).processes == 4
    assert plan_of(overrides=["device=cpu"]).processes == 1
    (problem,) = problems_of(overrides=["train.batch_size=8", "parallelism.max_gpus=2"])
    assert problem.what == "[parallelism] 4 GPUs are more than 2"
    monkeypatch.setenv("FORGE_GPUS", "many")
    assert any("FORGE_GPUS must be a whole number" in each.what for each in problems_of())


def test_a_check_that_raises_is_a_problem_of_its_plugin(problems_of):
    (problem,) = problems_of(('"tiny-method"\nrank = 4', '"unlucky-method"'))
    assert "the check of `unlucky-method` failed: RuntimeError: out of luck" in problem.what
    assert problem.where.line == 17


def test_missing_tables_are_told_with_the_stage_that_needs_them(problems_of):
    found = problems_of(('[sampler]\nuse = "tiny-sampler"\n', ""), ("[train]\nsteps = 100\nlr = 1e-4\n", ""))
    assert [each.what for each in found] == [
        "[sampler] is missing from r.toml, needed because of the stage `generate`",
        "[train] is missing from r.toml, needed because it is a stage of this run",
    ]
    assert found[0].fix == 'add [sampler] with `use`; installed here: "tiny-sampler"'
    assert found[1].fix == "add [train] with steps, lr"


def test_no_disk_space(plan_of, monkeypatch):
    def short() -> list[str]:
        plan = plan_of(overrides=["model.weights=published"])  # a full disk is no fault of the recipe
        return [problem.what for problem in shortages(plan, plan.stages)]

    monkeypatch.setattr(machine, "free_gigabytes", lambda folder: 20.0)
    monkeypatch.setattr(machine, "same_disk", lambda one, other: True)
    # 14.5 to download, as much for the merged export, 1 to spare.
    assert short() == ["no disk space: 30.0 GB are needed in runs, 20.0 GB are free"]
    assert "30.0 GB are needed in runs, 20.0 GB are free: TOO LITTLE" in explain(
        plan_of(overrides=["model.weights=published"])
    )
    monkeypatch.setattr(machine, "same_disk", lambda one, other: False)
    assert not short()
    monkeypatch.setattr(machine, "free_gigabytes", lambda folder: 0.5)
    assert [what.split(" are")[0] for what in short()] == ["no disk space: 14.5 GB", "no disk space: 15.5 GB"]


def test_downloads_must_be_here_or_come(plan_of, problems_of, workplace, monkeypatch):
    monkeypatch.setattr(machine, "free_gigabytes", lambda folder: 1000.0)
    (problem,) = problems_of(overrides=["model.weights=published", "stages=['train']"])
    assert problem.what == "someone/weights is not on this machine" and "fetch" in problem.fix
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (problem,) = problems_of(overrides=["model.weights=published"])
    assert "HF_HUB_OFFLINE forbids" in problem.what
    repo = workplace / "hub" / "models--someone--weights"
    (repo / "snapshots" / "abc").mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc")
    assert problems_of(overrides=["model.weights=published"])
    (repo / "snapshots" / "abc" / "model.safetensors").write_bytes(b"")
    assert plan_of(overrides=["model.weights=published"]).downloads()[0].gigabytes == 14.5


@pytest.mark.parametrize("name", ["a/b", "..", "", ".hidden", "a b"])
def test_names_of_runs_are_names_of_folders(problems_of, name):
    (problem,) = problems_of(name=name)
    assert problem.what == f"`{name}` cannot be the name of a run"


def test_gpus_are_counted_without_torch(monkeypatch):
    monkeypatch.delenv("FORGE_GPUS", raising=False)
    devices = [Path("/dev") / name for name in ("nvidia0", "nvidia1", "nvidia10", "nvidiactl", "nvidia-uvm")]
    monkeypatch.setattr(Path, "glob", lambda self, pattern: devices)
    for visible, count in [(None, 3), ("", 0), ("-1", 0), ("0", 1), ("2,0", 2), ("0,-1,1", 1), ("0,1,2,3", 3)]:
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert machine.gpus() == count
