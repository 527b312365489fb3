"""What a plan is told to take, against what was measured, against the network itself, and against itself."""

import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch

from cosmos_forge import machine, video
from cosmos_forge.errors import ForgeError
from cosmos_forge.explain import explain
from cosmos_forge.forecast import disk, rates
from cosmos_forge.forecast.forecast import forecast
from cosmos_forge.forecast.limits import look, supposed
from cosmos_forge.forecast.memory import training_memory, weights
from cosmos_forge.forecast.words import duration, facts
from cosmos_forge.gpus import find, several
from cosmos_forge.memory import Memory
from cosmos_forge.planning import make_plan
from cosmos_forge.plugins import load_plugins
from cosmos_forge.recipe import read_recipe
from cosmos_forge.run import Run
from cosmos_forge.testing import make_context
from cosmos_forge.training.assemble import assemble
from cosmos_forge.training.recompute import predicted
from cosmos_forge.worker import component

RECIPES = Path(__file__).parents[2] / "recipes"
DOCS = RECIPES.parent / "docs"
PUBLISHED = ("dataset.height=704", "dataset.width=1280")
H200 = find("h200")
GIB = 2**30


@pytest.fixture(scope="module")
def plugins():
    return load_plugins()


@pytest.fixture
def plan_of(plugins, tmp_path, monkeypatch):
    """A shipped recipe's plan, in an empty folder, on a machine with so many GPUs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(RECIPES)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(machine, "free_gigabytes", lambda folder: 1000.0)

    def make(recipe, *overrides, gpus=1):
        monkeypatch.setenv("FORGE_GPUS", str(gpus))
        return make_plan(read_recipe(Path("recipes") / f"{recipe}.toml", overrides), plugins)

    return make


# On H200s: settings, GPUs, what blocks computed again, seconds, GiB; docs/measured.md.
SHARED = ("parallelism.use=fsdp", "parallelism.context=2")
SHORTER = ("dataset.num_frames=57",)
SMALL = ("dataset.num_frames=25", "dataset.height=384", "dataset.width=384")
FULL = (*PUBLISHED, "train.ema=false")
ALONE, BOTH = ("train.batch_size=1",), ("parallelism.use=fsdp", "train.batch_size=2")
EIGHT = ("train.optimizer_state=8bit",)
THEN = replace(H200, memory_gib=134)  # what `auto` reckoned with when the first of them was measured came to this
STEPS = [
    ("lora", [*PUBLISHED], THEN, 1, {"attention": 13, "products": 15}, 12.471, 118.2),
    ("lora", [*PUBLISHED, "train.recompute=block"], H200, 1, {"block": 28}, 15.361, 37.3),
    ("lora", [], H200, 1, {"none": 28}, 3.101, 113.4),
    ("lora", SHORTER, H200, 1, {"none": 28}, 1.117, 63.8),
    ("lora", SMALL, H200, 1, {"none": 28}, 0.174, 22.9),
    ("lora", [*PUBLISHED, *SHARED], H200, 2, {"none": 28}, 6.310, 118.8),
    ("lora", [*SHARED], H200, 2, {"none": 28}, 1.750, 58.2),
    ("lora", [*SHORTER, *SHARED], H200, 2, {"none": 28}, 0.706, 33.2),
    ("lora", [*SMALL, *SHARED], H200, 2, {"none": 28}, 0.378, 13.0),
    ("full", [*FULL, *ALONE, *EIGHT], H200, 1, {"attention": 19, "products": 9}, 14.104, 125.2),
    ("full", [*FULL, *BOTH, *EIGHT], H200, 2, {"attention": 15, "products": 13}, 14.185, 124.3),
    ("full", [*FULL, *ALONE], H200, 1, {"block": 8, "attention": 20}, 14.637, 123.4),
    ("full", [*FULL, *BOTH], H200, 2, {"attention": 19, "products": 9}, 14.206, 125.5),
]


@pytest.mark.parametrize(("recipe", "settings", "gpu", "gpus", "levels", "seconds", "gib"), STEPS)
def test_steps_that_were_measured(plan_of, recipe, settings, gpu, gpus, levels, seconds, gib):
    found = forecast(plan_of(f"video2world-7b-{recipe}", *settings, gpus=gpus), gpu)
    assert Counter(found.levels) == levels
    assert found.step == pytest.approx(seconds, rel=0.1)
    assert found.training.total / GIB == pytest.approx(gib, rel=0.05)
    told = f"| {seconds:.3g} s | {found.step:.3g} s | {gib} GiB | {found.training.total / GIB:.1f} GiB |"
    assert told in (DOCS / "forecast.md").read_text(), told


def test_evaluations_that_were_measured(plan_of):
    plan = plan_of("video2world-7b-generate")
    found = forecast(plan, H200)
    assert found.video == pytest.approx(70 * 3.634, rel=0.01)
    eager = forecast(plan_of("video2world-7b-generate", "compile=none"), H200)
    assert eager.video == pytest.approx(70 * 3.954, rel=0.01)


@pytest.mark.parametrize(("memory", "gib"), [("resident", 18.0), ("streamed", 5.6), ("fp8", 11.5)])
def test_memory_of_generating_that_was_measured(plan_of, memory, gib):
    found = forecast(plan_of("video2world-7b-generate", f"generate.memory={memory}"), H200).generating.total / GIB
    assert found == pytest.approx(gib, rel=0.05)
    assert f"| {gib} GiB | {found:.1f} GiB |" in (DOCS / "forecast.md").read_text()


@pytest.mark.parametrize(("gpus", "seconds"), [(1, 7.404), (2, 3.735)])
def test_steps_of_generating_that_were_measured(plan_of, gpus, seconds):
    """Of 35 with guidance, two evaluations each."""
    found = forecast(plan_of("video2world-7b-generate", "parallelism.use=ddp", gpus=gpus), H200).video / 35
    assert found == pytest.approx(seconds, rel=0.1)
    assert f"| {seconds:.3g} s | {found:.3g} s |" in (DOCS / "forecast.md").read_text()


QUICK = ["precision=bf16", "dataset.height=32", "dataset.width=32", "train.batch_size=2", "train.ema=true"]


@pytest.mark.parametrize("method", [["method.use=full"], ["method.use=lora", "method.targets=['block.layer1']"]])
@pytest.mark.parametrize("parallelism", ["single", "fsdp"])
def test_the_network_says_the_same_once_it_is_there(plan_of, tmp_path, method, parallelism):
    plan = plan_of("quickstart", *QUICK, *method, f"parallelism.use={parallelism}", gpus=0)
    context = make_context(tmp_path, device=torch.device("cpu"), dtype=torch.bfloat16)
    together = component(plan, "parallelism", context)
    together.start()
    try:
        work = assemble(plan, Run(plan.folder), context, together)
        blocks = work.model.blocks
        memory = predicted(plan, work.model.net, blocks, context, plan.root.compile != "none")
        told, levels = training_memory(plan, 1e12)
        assert levels == ["none"] * len(blocks)
        there = memory(levels)
        for name in Memory.__dataclass_fields__:
            assert getattr(told, name) == pytest.approx(getattr(there, name), rel=1e-3), name

        for parameter in work.parameters.values():
            parameter.grad = torch.ones_like(parameter)
        work.optimizer.step()
        saved = sum(each.numel() * each.element_size() for each in work.tensors().values())
        # two kept, the best, and one being written
        assert disk.written(plan, ("train",))["checkpoints"] == pytest.approx(4 * saved / 1e9, rel=1e-3)
    finally:
        together.stop()


def test_long_steps_are_told_in_minutes(plan_of):
    full = "video2world-7b-full"
    outlook = look(plan_of(full), find("l4"), lambda changes: plan_of(full, *changes))
    assert re.match(r"train: [\d.]+ minutes a step, [\d.]+ days for 2000 steps", facts(outlook)["time"][0])


def test_operations_are_parted_as_the_network_has_them(plan_of):
    """2 P tokens of a linear network with P weights: those in blocks are nearly all; attention is 4 tokens^2 width."""
    model = plan_of("video2world-7b-lora").options("model")
    work = rates.work(model, (16, 16, 88, 160), 512)
    assert work.tokens == 56_320
    assert work.linear == pytest.approx(2 * weights(plan_of("video2world-7b-lora")).parameters * work.tokens, rel=0.12)
    assert work.attention == pytest.approx(28 * 4 * work.tokens * (work.tokens + 512) * 4096)


CASES = [
    ("lora", "h200", ["train.recompute=none", *PUBLISHED], "memory"),
    ("lora", "a10", [], "memory"),
    ("full", "h200", [], "memory"),
    ("full", "a100-40gb:8", [], "memory"),
    ("full-4gpu-80gb", "a100-40gb:4", [], "memory"),
    ("lora", "h100-80gb:8", [], "time"),
    ("generate", "h200:4", [], "time"),
    ("generate", "rtx-5080", ["generate.memory=resident"], "memory"),
]


@pytest.mark.parametrize(("recipe", "gpu", "overrides", "binds"), CASES)
def test_the_change_that_is_told_helps(plan_of, monkeypatch, recipe, gpu, overrides, binds):
    kind, count = several(gpu)
    outlook = look(
        plan_of(f"video2world-7b-{recipe}", *overrides, gpus=count),
        kind,
        lambda changes: make_plan(
            read_recipe(Path("recipes") / f"video2world-7b-{recipe}.toml", [*overrides, *changes]), load_plugins()
        ),
    )
    first = outlook.limits[0]
    assert first.what == binds and first.change
    if binds == "memory":
        assert max(m.total for m in (outlook.found.training, outlook.found.generating) if m) > outlook.found.gpu.usable
    after = forecast(
        plan_of(f"video2world-7b-{recipe}", *overrides, *first.change.settings, gpus=first.change.gpus), kind
    )
    assert all(m.total <= after.gpu.usable for m in (after.training, after.generating) if m)
    if binds == "time":
        assert after.seconds < outlook.found.seconds
    (said, *_) = facts(outlook)["limit"]
    assert said.startswith(f"{binds}: ") and all(setting in said for setting in first.change.settings)
    assert os.environ["FORGE_GPUS"] == str(first.change.gpus)


def test_a_full_disk_is_told_with_what_would_fit(plan_of, monkeypatch):
    monkeypatch.setattr(machine, "free_gigabytes", lambda folder: 70.0)
    plan = plan_of("video2world-7b-lora")
    (first, *_) = look(plan, H200, lambda changes: plan_of("video2world-7b-lora", *changes)).limits
    assert first.what == "disk" and "76.7 GB are needed" in first.why
    assert first.change.settings == ["export.merge=false"]


def test_what_is_written_and_not_yet_there(plan_of, tmp_path):
    plan = plan_of("video2world-7b-full")
    parts = disk.written(plan, plan.stages)
    # 7.24e9 weights with two moments and an average in float32, twice kept and once being written; weights in bfloat16
    assert parts["checkpoints"] == pytest.approx(3 * 16 * 7.236, rel=1e-3)
    assert parts["export"] == pytest.approx(14.47, rel=1e-3)
    plan.folder.joinpath("export").mkdir(parents=True)
    (plan.folder / "export" / "half").write_bytes(b"0" * 10**6)
    assert disk.left(plan) == pytest.approx(1e-3)


def test_clips_that_are_here_are_counted(plan_of, tmp_path):
    """Three videos of 25 frames have a clip of 17 frames each, or as many as begin 4 frames apart."""
    pixels = numpy.zeros((25, 32, 32, 3), dtype=numpy.uint8)
    for number in range(3):
        video.write_mp4(pixels, 12.0, tmp_path / "clips" / "videos" / f"{number}.mp4")
    (tmp_path / "clips" / "videos" / "gone.mp4").symlink_to("nowhere")
    folder = ["dataset.use=video-folder", "dataset.path=clips", "dataset.caption=a", "dataset.num_frames=17"]
    folder += ["dataset.height=32", "dataset.width=32"]
    for interval, clips in ((None, 3), (4, 9)):
        plan = plan_of("quickstart", *folder, *([f"dataset.start_frame_interval={interval}"] if interval else []))
        assert disk.count_clips(plan) == clips
        assert disk.written(plan, ("prepare",))["prepared clips"] == clips * disk.clip_bytes(plan) / 1e9
        epochs = (
            f"# epochs      about {1200 * 8 / clips:.3g}: about {clips} clips, before those of 8 files are held out"
        )
        assert epochs in explain(plan)


def test_judging_takes_time_too(plan_of):
    plain, judged = (
        forecast(plan_of("video2world-7b-lora", f"prepare.held_out={files}", *every, *PUBLISHED), H200)
        for files, every in ((0, ()), (1, ("train.validate_every=1000",)))
    )
    assert plain.judging == 0
    # at step 0 and five more times: a clip at five noise levels, and a video of 35 steps with guidance; not compiled
    assert judged.judging == pytest.approx(6 * (5 + 70) * 3.954, rel=0.01)
    assert judged.seconds == pytest.approx(plain.seconds + judged.judging)


def test_numbers_of_gpus():
    assert several("h100-80gb:8") == (find("h100-80gb"), 8) and several("H200") == (H200, 1)
    for wrong in ("h200:", "h200:0", "h200:two"):
        with pytest.raises(ForgeError, match="no number of GPUs"):
            several(wrong)


def test_the_gpu_that_is_here(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "DRIVER", tmp_path)
    monkeypatch.setenv("FORGE_GPUS", "1")
    with supposed(None) as gpu:
        assert gpu is None
    (tmp_path / "gpus" / "0000:19:00.0").mkdir(parents=True)
    (tmp_path / "gpus" / "0000:19:00.0" / "information").write_text("Model: \t\t NVIDIA H200\nIRQ:   \t\t 18\n")
    with supposed(None) as gpu:
        assert gpu == H200 and machine.gpus() == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-0123")  # a part of it, which has less of everything
    with supposed(None) as gpu:
        assert gpu is None
    with supposed("h100-80gb:8") as gpu:
        assert gpu == find("h100-80gb") and machine.gpus() == 8


def test_the_supposed_machine_is_gone_afterwards(monkeypatch):
    for before in (None, "3"):
        monkeypatch.delenv("FORGE_GPUS", raising=False)
        if before:
            monkeypatch.setenv("FORGE_GPUS", before)
        with machine.supposed(8):
            assert machine.gpus() == 8
        assert os.environ.get("FORGE_GPUS") == before


SHORT = "with steps so short that the processor counts, of which nothing is known"


@pytest.mark.parametrize(
    ("recipe", "gpu", "overrides", "told"),
    [
        ("lora", "h200", PUBLISHED, []),
        ("lora", "h200:2", ["parallelism.use=ddp", "train.batch_size=2"], []),
        ("lora", "h200:4", ["parallelism.use=ddp", "train.batch_size=4"], ["in 4 processes"]),
        ("lora", "h200", ["compile=none"], ["with training that is not compiled"]),
        ("lora", "h200", ["train.deterministic=true"], ["with train.deterministic, which took 2.2 times as long"]),
        ("lora", "h200", ["dataset.num_frames=17", "dataset.height=64", "dataset.width=64"], ["with 48 tokens", SHORT]),
        ("lora", "h200:2", [*SHARED, *SMALL], [SHORT]),
        ("full", "h100-pcie", PUBLISHED, ["on NVIDIA H100 PCIe"]),
    ],
)
def test_what_was_not_measured_is_said(plan_of, recipe, gpu, overrides, told):
    kind, count = several(gpu)
    assert list(forecast(plan_of(f"video2world-7b-{recipe}", *overrides, gpus=count), kind).estimated) == told


def test_what_cannot_be_told_is_not(plan_of):
    (said,) = facts(look(plan_of("quickstart"), H200, lambda changes: plan_of("quickstart", *changes)))["time"]
    assert said.startswith("not known")  # in float32
    assert look(plan_of("quickstart", gpus=0), H200, None) is None and "--gpu" in facts(None)["forecast"][0]


@pytest.mark.parametrize(
    ("seconds", "said"), [(12.455, "12.5 s"), (254, "4.23 minutes"), (62_275, "17.3 hours"), (440_000, "5.09 days")]
)
def test_durations(seconds, said):
    assert duration(seconds) == said


def test_the_page_names_every_rate():
    page = (DOCS / "forecast.md").read_text()
    for rate in (rates.ATTENTION, rates.ATTENTION_BACKWARD, rates.LINEAR):
        assert re.search(rf"\| {989 * rate:.0f} TFLOP/s \| {100 * rate:.1f} % \|", page), rate
