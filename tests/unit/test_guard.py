"""What guardrails did about a video, and how a stage ends that they have stopped."""

from types import SimpleNamespace

import pytest
import torch

from cosmos_forge.errors import FAILED, REFUSED, ForgeError
from cosmos_forge.generation.guard import FrameChecks, Guard, Safety, Stopped, Verdict, check_prompts, conclude
from cosmos_forge.options import Options
from cosmos_forge.tables import Table
from cosmos_forge.testing.guard import make_frames
from cosmos_forge.types import Refusal


def record(**verdicts: Verdict) -> dict:
    return {"safety": Safety(verdicts).record()}


ON, OFF = Verdict("on"), Verdict("off")
REFUSAL, FAILURE = Verdict("refused", "violence", "it fights"), Verdict("failed", reason="OSError: no weights")


@pytest.mark.parametrize(
    ("verdicts", "state"),
    [([], "off"), ([OFF], "off"), ([OFF, ON], "on"), ([ON, REFUSAL], "refused"), ([REFUSAL, FAILURE, OFF], "failed")],
)
def test_a_video_is_as_safe_as_its_worst_verdict(verdicts, state):
    safety = Safety({str(number): verdict for number, verdict in enumerate(verdicts)})
    assert safety.state == state and safety.stopped is (state in ("refused", "failed"))


def test_records_say_what_there_is_to_say():
    safety = Safety({"a": OFF, "b": Verdict("on", changed_frames=3), "c": REFUSAL})
    assert safety.record() == {
        "state": "refused",
        "guardrails": {
            "a": {"state": "off"},
            "b": {"state": "on", "changed_frames": 3},
            "c": {"state": "refused", "category": "violence", "reason": "it fights"},
        },
    }


def test_the_end_of_a_stage():
    conclude({"a.mp4": record(one=ON), "b.mp4": record(one=OFF), "c.mp4": record()})
    with pytest.raises(ForgeError) as refused:
        conclude({"a.mp4": record(one=ON), "b.mp4": record(one=ON, two=REFUSAL)})
    (problem,) = refused.value.problems
    assert problem.what == "guardrail `two` refuses b.mp4: violence: it fights"
    assert "[guardrail.two]" in problem.fix and refused.value.code == REFUSED == 3
    with pytest.raises(ForgeError) as failed:
        conclude({"a.mp4": record(one=REFUSAL), "b.mp4": record(one=FAILURE)})
    assert [problem.what for problem in failed.value.problems] == [
        "guardrail `one` refuses a.mp4: violence: it fights",
        "guardrail `one` failed, so there is no b.mp4: OSError: no weights",
    ]
    assert failed.value.code == FAILED == 1


def checks(*answers) -> FrameChecks:
    """Of guardrails that answer so, called 0, 1, .."""
    made = FrameChecks(SimpleNamespace(each=lambda kind: []), None)
    for number, answer in enumerate(answers):
        guard = Guard(None, None, Table(f"guardrail.{number}", Options()))
        guard.__dict__["component"] = SimpleNamespace(check_frames=answer)
        made.guards.append(guard)
    return made


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda frames: None, "TypeError: it gave None for frames"),
        (lambda frames: frames.float(), "TypeError: it gave torch.float32"),
        (lambda frames: frames[:, 1:], "TypeError: it gave torch.uint8 (3, 8, 48, 64) for frames"),
        (lambda frames: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_an_answer_that_is_none_fails(answer, reason, capfd):
    safety = Safety()
    with pytest.raises(Stopped):
        checks(lambda frames: frames, answer, lambda frames: frames)(safety, make_frames())
    assert [verdict.state for verdict in safety.verdicts.values()] == ["on", "failed"]
    assert safety.verdicts["1"].reason.startswith(reason) and "Traceback" in capfd.readouterr().err


def test_each_sees_what_the_one_before_it_left():
    def darken(frames):
        darker = frames.clone()
        darker[:, 2:5] = 0
        return darker

    safety = Safety()
    check = checks(darken, lambda frames: Refusal("dark") if frames[:, 2].max() == 0 else frames)
    with pytest.raises(Stopped):
        check(safety, make_frames())
    assert safety.verdicts == {"0": Verdict("on", changed_frames=3), "1": Verdict("refused", "dark")}


def test_a_video_is_watched_piece_by_piece():
    sizes = []
    check = checks(lambda frames: sizes.append(frames.shape[1]) or 255 - frames)
    frames_THWC = make_frames(7).permute(1, 2, 3, 0).numpy()
    safety = Safety()
    seen = list(check.watch(safety, iter(frames_THWC), 3))
    assert sizes == [3, 3, 1] and safety.verdicts["0"].changed_frames == 7
    assert all((frame == 255 - was).all() for frame, was in zip(seen, frames_THWC, strict=True))
    assert [id(frame) for frame in checks().watch(safety, iter([frames_THWC]), 3)] == [id(frames_THWC)]


def test_prompts_are_a_persons_own_and_those_in_their_place(monkeypatch):
    asked = []

    class Listener:
        def __init__(self, name):
            self.name = name

        def check_prompt(self, prompt):
            asked.append((self.name, prompt))
            return Refusal("bad") if "bad" in prompt else None

    monkeypatch.setattr("cosmos_forge.generation.guard.component", lambda plan, table, context: Listener(table))
    options = SimpleNamespace(looks_at=("prompt",))
    tables = [Table(f"guardrail.{name}", options, name) for name in ("a", "b")]
    plan = SimpleNamespace(each=lambda kind: tables, tables={"guardrail.c": Table("guardrail.c", options, on=False)})
    context = SimpleNamespace(world=SimpleNamespace(rank=0, size=1), device=torch.device("cpu"))
    videos = [
        SimpleNamespace(name="1", asked=("bad",), prompts=("good", "good")),
        SimpleNamespace(name="2", asked=(), prompts=("good", "fine")),
    ]
    found = check_prompts(plan, context, videos)
    assert asked == [
        ("guardrail.a", "bad"),
        ("guardrail.a", "good"),
        ("guardrail.a", "fine"),
        ("guardrail.b", "good"),
        ("guardrail.b", "fine"),
    ]
    assert {name: verdict.state for name, verdict in found["1"].verdicts.items()} == {"c": "off", "a": "refused"}
    assert {name: verdict.state for name, verdict in found["2"].verdicts.items()} == {"c": "off", "a": "on", "b": "on"}
