"""The event files, as TensorBoard's own reader sees them."""

from __future__ import annotations

import pytest

pytest.importorskip("forge_tensorboard", reason="forge-tensorboard is not installed")

from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cosmos_forge import events
from cosmos_forge.testing import LoggerContract
from cosmos_forge.types import LoggerContext
from forge_tensorboard.plugin import TensorBoardOptions
from forge_tensorboard.writer import TensorBoard


class TestTensorBoard(LoggerContract):
    use = "tensorboard"


def step(number: int, loss: float, **metrics: float) -> events.Step:
    return events.Step(number, 100, loss, metrics, 1e-4, 0.5, 1.5, 2.0, 0.1, 3.0)


def take(run, *happened: events.Event, start: float = 1000.0, **options) -> None:
    """One attempt at a run."""
    logger = TensorBoard(TensorBoardOptions(**options), LoggerContext("mine", run, {"train": {"lr": 1e-4}}))
    for number, event in enumerate(happened):
        logger.on_event(events.Stamped(event, start + number))
    logger.close()


def read(folder) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


def test_curves_pictures_and_settings(tmp_path):
    Image.new("RGB", (30, 20), "red").save(tmp_path / "sheet.png")
    take(
        tmp_path,
        events.RunStarted("mine", ["train"]),
        step(1, 0.5, edm=0.25),
        step(2, 0.4, edm=0.2),
        events.Validated(2, [0.1, 10.0], [0.2, 0.4], [], {"psnr": 20.0}, "sheet.png", True),
        events.Measured({"psnr": 21.5}),
        events.Artifact("contact sheet", "sheet.png"),
    )
    board = read(tmp_path / "tensorboard")
    assert [(each.step, each.wall_time) for each in board.Scalars("train/loss")] == [(1, 1001.0), (2, 1002.0)]
    assert [each.value for each in board.Scalars("train/edm")] == pytest.approx([0.25, 0.2])
    assert board.Scalars("held out/loss")[0].value == pytest.approx(0.3)
    assert board.Scalars("held out/loss at sigma 10")[0].value == pytest.approx(0.4)
    assert (board.Scalars("generated/psnr")[0].step, board.Scalars("generated/psnr")[0].value) == (2, 21.5)
    for tag in ("samples", "contact sheet"):
        (picture,) = board.Images(tag)
        assert (picture.width, picture.height) == (30, 20)
        assert picture.encoded_image_string == (tmp_path / "sheet.png").read_bytes()
    (text,) = board.Tensors("settings")
    assert b'"lr": 0.0001' in text.tensor_proto.string_val[0]
    assert not {"train/step", "train/tflops", "train/metrics"} & set(board.Tags()["scalars"])


def test_steps_done_again_replace_those_that_were_lost(tmp_path):
    take(tmp_path, step(1, 0.1), step(2, 0.2), step(3, 0.3))
    take(tmp_path, events.Resumed(1, "checkpoints/1"), step(2, 0.7), start=2000.0)
    board = read(tmp_path / "tensorboard")
    losses = [(each.step, each.value) for each in board.Scalars("train/loss")]
    assert losses == [(1, pytest.approx(0.1)), (2, pytest.approx(0.7))]


def test_runs_side_by_side(tmp_path):
    take(tmp_path / "run", step(1, 0.1), folder=str(tmp_path / "board"))
    assert read(tmp_path / "board" / "mine").Scalars("train/loss")[0].step == 1
    assert not (tmp_path / "run").exists()


def test_a_picture_that_is_gone_is_no_fault(tmp_path):
    take(tmp_path, events.Artifact("contact sheet", "gone.png"), step(1, 0.1))
    assert read(tmp_path / "tensorboard").Tags()["images"] == []
