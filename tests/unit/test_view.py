"""The view of recorded event streams: plain lines, the live display at two widths, and what the end says."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from cosmos_forge import events as ev
from cosmos_forge import view
from cosmos_forge.errors import ForgeError
from cosmos_forge.view import picture as view_picture
from cosmos_forge.view import terminal as view_terminal
from cosmos_forge.view.words import duration, held_out, measured, sparkline

LONG = "data/[raw]/" + "clip" * 30 + ".mp4"


def step(number: int, loss: float) -> ev.Step:
    return ev.Step(number, 100, loss, {"edm": 0.5}, 1e-4, 0.4, 2.0, 1.5, 0.03, 12.34)


START = ev.RunStarted("kitchen", ["prepare", "train", "generate"], "recipes/kitchen.toml")
PREPARE = [
    (0, START),
    (0, ev.StageStarted("prepare", 2)),
    (0, ev.Progress("clips", 0, 40, "clips")),
    (5, ev.Progress("clips", 10, 40, "clips")),
    (5, ev.RejectedClip(LONG, "12 frames, 33 are needed")),
    (5, ev.RejectedClip(LONG, "12 frames, 33 are needed")),
    (6, ev.Note("[dataset] three captions are empty", warning=True)),
    (6, ev.Note("[dataset] three captions are empty", warning=True)),
    (20, ev.StageFinished("prepare", 20.0)),
]
TRAIN = [
    (20, ev.StageStarted("train", 2)),
    *((20 + 2 * number, step(number, 1 / number)) for number in range(10, 51, 10)),
    (121, ev.Saved(50, "checkpoints/50")),
]
REST = [
    *((20 + 2 * number, step(number, 1 / number)) for number in range(60, 101, 10)),
    (221, ev.StageFinished("train", 201.0)),
    (221, ev.StageStarted("generate")),
    (230, ev.Artifact("videos", "videos")),
    (230, ev.Measured({"psnr_db": 24.13, "psnr_copy_db": 15.92, "clips": 3})),
    (230, ev.StageFinished("generate", 9.0)),
    (230, ev.RunFinished(230.0)),
]
FAILED = (125, ev.StageFailed("train", ["error: [train] lr is too high", "  fix: lower it"], "logs/train-rank0.log"))


def write(folder: Path, timed: list[tuple[float, ev.Event]], begin: float = 1.7e9) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seconds, event in timed:
        ev.EventLog(folder / "events.jsonl", lambda now=begin + seconds: now).emit(event)
    return folder


def plain(folder: Path, offset: int = 0) -> str:
    stream = io.StringIO()
    view.show(folder, lambda: False, offset, stream)
    return stream.getvalue()


def terminal(folder: Path, width: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """What stands on a terminal of that width at the end, without escape sequences."""
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=False, highlight=False)
    monkeypatch.setattr(view, "_screen", lambda folder, _: view_terminal.Terminal(folder, console))
    view.show(folder, lambda: False)
    return stream.getvalue()


def picture(timed: list[tuple[float, ev.Event]]) -> view_picture.Picture:
    painted = view_picture.Picture()
    for seconds, event in timed:
        painted.add(ev.Stamped(event, seconds))
    return painted


def painted(timed: list[tuple[float, ev.Event]], width: int, now: float) -> str:
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(view_terminal.paint(picture(timed), width, now))
    return console.export_text()


def test_plain_lines_tell_the_run(tmp_path):
    lines = plain(write(tmp_path / "kitchen", PREPARE + TRAIN + REST)).splitlines()
    assert lines[:8] == [
        "00:00:00 kitchen: prepare, train, generate (recipes/kitchen.toml)",
        "00:00:00 prepare: started, 2 processes",
        "00:00:00 prepare: clips 0/40",
        "00:00:05 prepare: clips 10/40, 2.0/s, 15s left",
        f"00:00:05 prepare: left out {LONG}: 12 frames, 33 are needed",
        "00:00:06 warning: [dataset] three captions are empty",
        "00:00:20 prepare: done in 20s",
        "00:00:20 train: started, 2 processes",
    ]
    assert (
        "00:00:40 train: step 10/100, loss 0.1, edm 0.5, lr 0.0001, grad norm 0.4, samples/s 1.5, s/step 2, "
        "memory 12.3 GiB, data wait 3%, 3m 00s left" in lines
    )
    assert "kitchen: done in 3m 50s" in lines
    assert any(line.startswith("  to continue a video of yours: forge generate ") for line in lines)


def test_speed_and_steps_left_out_are_told_where_they_are_known(tmp_path):
    known = replace(step(10, 0.1), tokens_per_second=4520.4, tflops=473.21, mfu=0.4785, left_out=2)
    (line,) = [
        line for line in plain(write(tmp_path / "kitchen", [*PREPARE, (20, known)])).splitlines() if "step 10/" in line
    ]
    assert "s/step 2, tokens/s 4520, TFLOP/s 473.2, MFU 47.9%, memory" in line
    assert "left out 2 steps" in line


def test_plain_lines_hold_no_escape_sequences(tmp_path):
    assert "\x1b" not in plain(write(tmp_path / "kitchen", PREPARE + TRAIN + [FAILED]))


def test_plain_progress_is_not_told_more_often_than_one_reads(tmp_path):
    fast = [(index / 1000, ev.Progress("clips", index, 1000, "clips")) for index in range(1001)]
    slow = [(100 + index, ev.Progress("captions", index, 1000, "captions")) for index in range(21)]
    text = plain(write(tmp_path / "kitchen", [(0, START), (0, ev.StageStarted("prepare")), *fast, *slow]))
    assert [line.split()[3].rstrip(",") for line in text.splitlines() if "clips" in line] == ["0/1000", "1000/1000"]
    assert text.count("captions") == 5  # at once and every five seconds


def test_what_stands_before_the_offset_is_counted_but_not_told(tmp_path):
    folder = write(tmp_path / "kitchen", PREPARE + TRAIN)
    offset = (folder / "events.jsonl").stat().st_size
    assert plain(folder, offset) == ""
    again = [(0, START), (0, ev.StageSkipped("prepare")), (0, ev.StageStarted("train")), (1, ev.Resumed(50, "x"))]
    text = plain(write(folder, again, begin=1.7e9 + 5000), offset)
    assert "left out" not in text
    assert text.splitlines()[1:4] == [
        "00:00:00 prepare: done before",
        "00:00:00 train: started",
        "00:00:01 train: goes on after step 50",
    ]


@pytest.mark.parametrize("width", [60, 160])
@pytest.mark.parametrize("end", [REST, [FAILED], []], ids=["done", "failed", "killed"])
def test_no_line_is_wider_than_the_terminal(tmp_path, monkeypatch, width, end):
    text = terminal(write(tmp_path / "kitchen", PREPARE + TRAIN + end), width, monkeypatch)
    assert max(map(len, text.splitlines())) <= width
    assert text.count("three captions") == 1
    assert "[dataset]" in text  # brackets are text, not markup


@pytest.mark.parametrize("width", [60, 160])
def test_the_live_part_while_training(width):
    text = painted(PREPARE + TRAIN, width, now=125.0)
    assert max(map(len, text.splitlines())) <= width
    assert "✓ prepare   20s" in text
    assert "▸ train     1m 45s   2 processes" in text
    assert "step 50/100  1m 35s left" in text  # 50 steps of 2 s, less the 5 s since the report
    assert "█▅▃▂▁" in text  # means of the losses so far: 0.1, 0.075, 0.061, 0.052, 0.046
    for fact in ("lr 0.0001", "samples/s 1.5", "s/step 2", "memory 12.3 GiB", "data wait 3%", "grad norm 0.4"):
        assert fact in text
    assert "· generate" in text


@pytest.mark.parametrize("width", [60, 160])
def test_the_live_part_while_fetching(width):
    started = [(0, START), (0, ev.StageStarted("prepare"))]
    repo = "a-very-long-owner/" + "name" * 20
    text = painted([*started, (1, ev.Progress(repo, 0, 8, "GB")), (5, ev.Progress(repo, 2, 8, "GB"))], width, 5.0)
    assert "2/8 GB  500 MB/s  12s left" in text
    assert max(map(len, text.splitlines())) <= width


def judged(number: int, loss: float, best: bool) -> ev.Validated:
    """Losses of three noise levels whose mean is `loss`; 0.9 before training."""
    quality, sheet = {"psnr_db": 20.0, "psnr_copy_db": 19.0}, f"samples/step-{number:09d}/contact-sheet.png"
    return ev.Validated(number, [1.0, 2.0, 4.0], [loss - 0.1, loss, loss + 0.1], [0.8, 0.9, 1.0], quality, sheet, best)


JUDGED = [
    *((0, START), (0, ev.StageStarted("train")), (1, judged(0, 0.9, best=False)), (30, step(20, 0.5))),
    *((32, ev.Progress("held-out clips", 1, 8, "clips")), (34, judged(20, 0.4, best=True))),
    *((60, step(40, 0.25)), (64, judged(40, 0.6, best=False))),
]


def test_a_loss_above_that_before_training_is_never_praised():
    assert held_out(judged(20, 1.2, best=True)) == "held-out loss 1.2 (0.9 before training): WORSE than before training"


def test_plain_lines_tell_whether_it_learns(tmp_path):
    ended = [(70, ev.StageFinished("train", 70.0)), (70, ev.RunFinished(70.0))]
    lines = plain(write(tmp_path / "kitchen", JUDGED + ended)).splitlines()
    quality = "PSNR 20.0 dB: 1.0 dB better than copying the last frame (19.0)"
    for begin, sheet in (
        ("00:00:01 train: step 0: held-out loss 0.9 before training", "samples/step-000000000"),
        ("00:00:34 train: step 20: held-out loss 0.4 (0.9 before training), the lowest so far", "step-000000020"),
        ("00:01:04 train: step 40: held-out loss 0.6 (0.9 before training)", "step-000000040"),
    ):
        assert [line for line in lines if line.startswith(f"{begin}; {quality}; ") and f"{sheet}/contact" in line]
    assert "  Held-out loss 0.6 (0.9 before training); at step 20 it was 0.4, the lowest" in lines
    assert any("go back to step 20: forge run " in line and "export.checkpoint=best" in line for line in lines)


@pytest.mark.parametrize("width", [60, 160])
def test_the_live_part_while_judging(width):
    before, between, after = (painted(JUDGED[:count], width, now=64.0) for count in (3, 5, 8))
    assert "held-out loss 0.9" in before and "0.9 before" in before
    assert "held-out clips 1/8" in between and "held-out clips" not in after
    assert "held-out loss 0.6" in after and "█▁▄" in after and "lowest at step 20" in after
    assert max(map(len, after.splitlines())) <= width
    cut_short = [*JUDGED[:3], (9, ev.StageFailed("train", [], interrupted=True))]
    assert "interrupted" in painted(cut_short, width, 9.0)


def test_judgements_done_again_replace_those_lost():
    training = picture([*JUDGED, (65, judged(20, 0.3, best=True))]).training
    assert [(each.step, each.loss) for each in training.judged] == [(0, 0.9), (20, pytest.approx(0.3))]
    assert training.best is training.judged[-1]


def test_steps_done_again_replace_those_lost():
    again = [(0, START), (0, ev.StageStarted("train")), (1, ev.Resumed(20, "x")), (9, step(30, 9.0))]
    training = picture(TRAIN + again).training
    assert [(number, loss) for number, loss, _ in training.curve] == [(10, 1 / 10), (20, 1 / 20), (30, 9.0)]
    assert training.left(9.0) == 140.0


def test_progress_of_the_next_thing_starts_its_own_rate():
    timed = [(0, START), (0, ev.StageStarted("prepare"))]
    timed += [(0, ev.Progress("clips", 0, 4)), (4, ev.Progress("clips", 4, 4))]
    timed += [(10, ev.Progress("captions", 0, 9)), (11, ev.Progress("captions", 3, 9))]
    meter = picture(timed).stages["prepare"].meter
    assert (meter.rate, meter.left(12.0)) == (3.0, 1.0)


def test_a_failure_is_told_in_full(tmp_path, monkeypatch):
    text = terminal(write(tmp_path / "kitchen", PREPARE + TRAIN + [FAILED]), 60, monkeypatch)
    for words in ("train failed after 2m 05s", "error: [train] lr is too high", "  fix: lower it", "train-rank0.log"):
        assert words in text


def test_interrupted_and_killed_runs_say_how_to_go_on(tmp_path):
    stopped = ev.StageFailed("train", [], interrupted=True)
    text = plain(write(tmp_path / "a", [*PREPARE, *TRAIN, (125, stopped)]))
    assert "train interrupted after 2m 05s\n  The same command goes on.\n" in text
    assert "error" not in text
    assert "stopped after 2m 01s" in plain(write(tmp_path / "b", PREPARE + TRAIN))


AGAIN = [
    (300, ev.RunStarted("kitchen", ["generate"], "recipes/kitchen.toml")),
    (300, ev.StageStarted("generate")),
    (305, ev.Artifact("video", "videos/photo.mp4")),
    (305, ev.StageFinished("generate", 5.0)),
    (305, ev.RunFinished(5.0)),
]


def test_a_stage_done_again_by_itself_tells_of_nothing_else(tmp_path):
    said = plain(write(tmp_path / "a", PREPARE + TRAIN + REST + AGAIN), offset=0).split("kitchen: done in")[-1]
    assert "photo.mp4" in said and "forge generate" in said
    for old in ("videos: ", "PSNR", "clips 3", "train twice"):
        assert old not in said
    whole = [*AGAIN, (400, START), *((400, ev.StageSkipped(stage)) for stage in START.stages), (400, ev.RunFinished(0))]
    said = plain(write(tmp_path / "b", PREPARE + TRAIN + REST + whole)).split("kitchen: done in")[-1]
    assert "PSNR" in said and "photo.mp4" in said and "train twice" in said


def test_a_stage_by_itself_that_is_stopped_names_no_other_command(tmp_path):
    stopped = [*AGAIN[:2], (302, ev.StageFailed("generate", [], interrupted=True))]
    said = plain(write(tmp_path, PREPARE + TRAIN + REST + stopped))
    assert "The same command goes on." in said and "forge run" not in said


def test_a_torn_last_line_is_left_for_later(tmp_path):
    folder = write(tmp_path / "kitchen", PREPARE)
    with (folder / "events.jsonl").open("a") as file:
        file.write('{"event": "Note", "ti')
    assert plain(folder).count("\n00:") == 6
    assert "note" not in plain(folder)


def test_events_are_shown_while_the_run_is_alive(tmp_path):
    """Stages of an unfinished run appear as they come, not at the end."""
    folder, seen = write(tmp_path / "kitchen", PREPARE), []
    stream = io.StringIO()

    def alive() -> bool:
        seen.append(stream.getvalue())
        if len(seen) == 2:
            write(folder, TRAIN + REST)
        return len(seen) < 3

    view.show(folder, alive, 0, stream)
    assert "prepare: done in 20s" in seen[1] and "train" not in seen[1].partition("\n")[2]
    assert "done in 3m 50s" in stream.getvalue()


def test_watching_a_finished_run_shows_its_last_attempt(tmp_path, capsys):
    folder = write(tmp_path / "kitchen", PREPARE + TRAIN + [FAILED])
    assert view.watch(folder) == 1
    capsys.readouterr()
    again = [(0, START), (0, ev.StageSkipped("prepare")), (0, ev.StageStarted("train")), *REST[-6:]]
    write(folder, again, begin=1.7e9 + 5000)
    assert view.watch(folder) == 0
    text = capsys.readouterr().out
    assert "failed" not in text and "left out" not in text
    assert "00:00:00 prepare: done before" in text


def test_ctrl_c_leaves_a_watched_run_quietly(tmp_path, monkeypatch, capsys):
    def interrupt(folder: Path) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(view, "is_running", interrupt)
    assert view.watch(write(tmp_path / "kitchen", PREPARE)) == 0
    assert capsys.readouterr().out == ""


def test_an_unknown_run_names_the_nearest(tmp_path):
    write(tmp_path / "kitchen", PREPARE)
    with pytest.raises(ForgeError, match="did you mean `kitchen`"):
        view.watch(tmp_path / "kitchn")


def test_a_run_in_which_nothing_has_happened(tmp_path):
    for spoilt in (b"", b'{"event": "Nope"}\n', b"\xd5\x00\xff\n"):
        (tmp_path / "events.jsonl").write_bytes(spoilt)
        with pytest.raises(ForgeError, match="nothing has happened in"):
            view.watch(tmp_path)


def test_measurements_are_held_against_their_rivals():
    assert measured(
        {"psnr_db": 24.13, "psnr_copy_db": 15.92, "psnr_base_db": 30.0, "clips": 3, "train_seconds": 65}
    ) == [
        "PSNR 24.1 dB: 8.2 dB better than copying the last frame (15.9), 5.9 dB worse than before training (30.0)",
        "clips 3, train 1m 05s",
    ]
    assert measured({"drift": 2.0, "drift_base": 1.5}) == ["drift 2: 0.5 more than before training (1.5)"]
    assert measured({"psnr_db": 9.01, "psnr_copy_db": 9.0}) == ["PSNR 9.0 dB: the same as copying the last frame (9.0)"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0s"), (9.94, "9.9s"), (9.96, "10s"), (59.7, "1m 00s"), (3599.6, "1h 00m"), (86400 * 2 + 3600, "2d 01h")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_sparklines():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 20) == "▁▂▃▄▅▆▇█"
    assert sparkline([7, 7, 0, 0], 2) == "█▁"
    assert sparkline([1.0, float("nan"), 2.0], 9) == "▁!█"
    assert sparkline([3.0, 3.0], 9) == "▁▁"
    assert sparkline([], 9) == sparkline([1.0], 0) == ""
