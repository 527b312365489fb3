"""The page of a run: what it takes from the run's folder, and that text stays text."""

import base64
import hashlib
import json
import math
import os
import re
import runpy
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest

from cosmos_forge import cli
from cosmos_forge import events as ev
from cosmos_forge.errors import ForgeError, Where
from cosmos_forge.origins import keep_origins, read_origins
from cosmos_forge.report.curves import TOP, Curve, Scale, chart, round_ticks, smooth, thin
from cosmos_forge.report.facts import read_facts
from cosmos_forge.report.html import html, page, tag
from cosmos_forge.report.media import Media
from cosmos_forge.report.times import REST, stage_times
from cosmos_forge.report.write import keep_report, write_comparison, write_report, write_reports
from cosmos_forge.view.last_words import closing
from cosmos_forge.view.picture import Picture

made = runpy.run_path(str(Path(__file__).parents[1] / "made_run.py"))
make_run, EVIL = made["make_run"], made["EVIL"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "whole")


class Outline(HTMLParser):
    """Elements by name, and all text outside style and script. Complains of what is not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in {"meta", "link", "img"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text.append(data)

    def all(self, name):
        return [attributes for tag, attributes in self.elements if tag == name]


def test_text_is_escaped_and_html_is_not():
    assert html("<b>") == "&lt;b&gt;" and html(tag("b", "<i>")) == "<b>&lt;i&gt;</b>"
    assert tag("p", title='"><script>', hidden=True, lang=None) == '<p title="&quot;&gt;&lt;script&gt;" hidden></p>'
    assert html([None, 3, [tag("br_"), "&"]]) == "3<br_></br_>&amp;"


def test_a_page_holds_what_the_run_says(whole):
    text = write_report(whole).read_text()
    outline = Outline(text)
    words = " ".join(outline.text)
    for told in (
        "a clip needs 17",
        "recipes/a.toml:9",
        "command line",
        "train.lr",
        "A square moves to the right.",
        "3.0 dB better than copying the last frame",
        "held-out loss at step 40, the best, before training 1.2",
        "before clipping",
        "seconds a step",
        "torch",
    ):
        assert told in words, told
    for note in read_facts(whole).notes:
        assert note.text in words
    assert len(outline.all("svg")) >= 7
    # Two videos with their truth; step 40 and step 0 of one sample, whose truth is that of the video.
    assert len(outline.all("video")) == 8
    assert len(outline.all("img")) == 3


def test_what_people_wrote_stays_text(whole):
    text = write_report(whole).read_text()
    outline = Outline(text)
    assert len(outline.all("script")) == 1, "only the page's own"
    assert "document.title='taken'" in " ".join(outline.text), "and it is there to read"
    assert not re.search(r"<script>document\.title", text)


def test_nothing_is_loaded_from_elsewhere(whole):
    text = write_report(whole).read_text()
    outline = Outline(text)
    for _, attributes in outline.elements:
        for key in ("src", "href", "poster", "data"):
            assert re.match(r"data:|#|[\w.-]+(/|$)", attributes.get(key, "#")), attributes
            assert "//" not in attributes.get(key, "")[:9]
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style
    assert any(meta.get("content", "").startswith("default-src 'none'; ") for meta in outline.all("meta"))


def test_steps_that_were_lost_are_replaced(whole):
    facts = read_facts(whole)
    assert [step.step for step in facts.steps] == list(range(2, 41, 2))
    lifted = [step.step for step in facts.steps if step.loss > 3]
    assert lifted == list(range(2, 13, 2)), "what came after step 12 of the first attempt was done again"
    assert [each.step for each in facts.validated] == [0, 40]


def test_time_goes_to_what_was_done():
    events = [
        (0, ev.RunStarted("r", [])),
        (1, ev.StageStarted("prepare")),
        (5, ev.Progress("clips", 0, 4)),
        (15, ev.Progress("clips", 4, 4)),
        (17, ev.StageFinished("prepare", 16)),
        (20, ev.StageStarted("train")),
        (30, ev.Step(4, 8, 1.0, {}, 0.1, 1.0, 2.0, 1.0, 0.25, 1.0)),
        (36, ev.Validated(4, [1.0], [1.0], [], {}, "", True)),
        (40, ev.Note("killed after this")),
    ]
    prepare, train = stage_times([ev.Stamped(event, time) for time, event in events])
    assert prepare.parts == {REST: 6, "clips": 10} and prepare.seconds == 16 and prepare.ended == "done"
    assert train.parts == {"steps": 10, "validation": 6, REST: 4} and train.ended == "killed"
    assert train.waited == pytest.approx(0.25 * 4 * 2.0)


def test_curves_keep_their_peaks_and_leave_out_what_is_not_finite():
    points = [(step, 1.0) for step in range(5000)]
    points[1234] = (1234, 9.0)
    assert len(thin(points)) <= 402 and (1234, 9.0) in thin(points)
    assert smooth([(0, 1.0), (1, 3.0), (2, math.nan)]) == [(0, 1.0), (1, 2.0)]
    assert chart("nothing", [Curve("loss", [(0, math.inf)])]) is None
    assert "nan" not in chart("some", [Curve("loss", [(0, math.nan), (1, 2.0), (2, 3.0)])])


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.2, 0.9), (1e-9, 3e-9), (117, 3210)])
def test_ticks_are_round_and_enclose(low, high):
    ticks = round_ticks(low, high)
    assert ticks[0] <= low + 1e-12 and ticks[-1] >= high - 1e-12 and 3 <= len(ticks) <= 7
    mantissas = [f"{tick:.9e}".partition("e")[0].strip("-").rstrip("0").replace(".", "") for tick in ticks]
    assert all(len(mantissa) <= 3 for mantissa in mantissas), ticks
    scale = Scale([low, high], False)
    assert 0 <= scale.share(low) < scale.share(high) <= 1


def test_a_wide_range_is_logarithmic():
    scale = Scale([0.01, 100.0], True)
    assert scale.log and scale.share(1.0) == pytest.approx(0.5)
    assert not Scale([0.01, 100.0], False).log and not Scale([-1.0, 100.0], True).log


def test_pictures_beyond_the_size_are_links(tmp_path):
    for name in "ab":
        (tmp_path / f"{name} 1.png").write_bytes(bytes(600))
    media = Media(tmp_path / "page.html", limit=1000)
    assert media.url(tmp_path / "a 1.png").startswith("data:image/png;base64,AAAA")
    assert media.url(tmp_path / "b 1.png") == "b%201.png"
    assert media.url(tmp_path / "a 1.png").startswith("data:"), "what is there once counts once"
    assert "1 more" in media.told() and "only shown while they do" in media.told()


def test_a_failed_run_says_why(tmp_path):
    text = write_report(make_run(tmp_path / "broken", failed=True, videos=False)).read_text()
    words = " ".join(Outline(text).text)
    assert "train failed" in words and "error: it broke" in words and "logs/train-rank0.log" in words


def test_what_guardrails_stopped_is_told(tmp_path):
    folder = make_run(tmp_path / "guarded")
    said = {
        "state": "refused",
        "guardrails": {"words": {"state": "refused", "category": "violence", "reason": "<knife>"}},
    }
    (folder / "videos" / "knife.json").write_text(json.dumps({"safety": said}))
    facts = read_facts(folder)
    assert facts.stopped == {"knife": "words: refused: violence: <knife>"} and len(facts.films) == 2
    assert "words: refused: violence: <knife>" in " ".join(Outline(write_report(folder).read_text()).text)


def test_a_run_that_has_hardly_begun_has_a_page(tmp_path):
    ev.EventLog(tmp_path / "events.jsonl").emit(ev.RunStarted("young", ["train"]))
    assert "young" in write_report(tmp_path).read_text()
    with pytest.raises(ForgeError, match="there is no run"):
        write_report(tmp_path / "none")


def test_a_page_that_fails_is_one_note(tmp_path, monkeypatch):
    folder = make_run(tmp_path / "run", videos=False)
    log = ev.EventLog(folder / "events.jsonl")
    before = len(ev.read(log.path)[0])

    def broken(folder):
        raise RuntimeError("no\npage")

    monkeypatch.setattr("cosmos_forge.report.write.write_report", broken)
    keep_report(folder, log)
    (last,) = ev.read(log.path)[0][before:]
    assert last.event == ev.Note("report.html was not written: RuntimeError: no page", warning=True)
    assert not (folder / "report.html").exists()


def test_the_closing_words_name_the_page(whole):
    write_report(whole)
    picture = Picture()
    for stamped in ev.read(whole / "events.jsonl")[0]:
        picture.add(stamped)
    assert closing(picture, whole).files[0] == ("report", str(whole / "report.html"))


def test_runs_side_by_side(whole, tmp_path):
    other = make_run(tmp_path / "other", lr=0.5)
    write_report(whole)
    text = write_comparison([whole, other], tmp_path / "both.html").read_text()
    outline = Outline(text)
    words = " ".join(outline.text)
    assert "train.lr" in words and "0.5" in words and "train.steps" not in words, "only what differs"
    links = [attributes["href"] for attributes in outline.all("a")]
    assert any(link.endswith("/whole/report.html") and link.startswith("..") for link in links)
    assert len(outline.all("video")) == 2 * 3, "of each name both, and the truth once"
    assert re.search(r'"name": "other"', " ".join(a.get("data-curves", "") for a in outline.all("svg")))


def test_a_name_that_is_no_text_is_told_as_well_as_can_be(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "odd")
    rejected = {"key": os.fsdecode(b"videos/caf\xe9.mp4"), "reason": "the file is empty"}
    (folder / "rejected.jsonl").write_text(json.dumps(rejected) + "\n")
    assert "videos/caf?.mp4" in " ".join(Outline(write_report(folder).read_text()).text)


def test_reports_are_drawn_where_they_are_but_for_rare_ones():
    """A loss that falls is not drawn as one that stays, though its smoothed curve lies higher."""

    def heights(values, smoothed=None):
        points = list(enumerate(values))
        figure = chart("loss", [Curve("as reported", points, "c0 faint"), Curve("", smoothed or smooth(points))])
        faint = next(each for each in Outline(str(figure)).all("path") if "faint" in each["class"])
        return [float(spot.split()[1]) for spot in faint["d"].removeprefix("M").split("L")]

    falling = heights([1 - step / 4 for step in range(10)])
    assert falling == sorted(falling) and len(set(falling)) == 10
    spiky = heights([1 + step % 2 for step in range(100)] + [1e6], smoothed=[(0, 1.5), (100, 1.5)])
    assert spiky[0] - spiky[1] > 100 and spiky[-1] < TOP, "one spike leaves the picture and presses nothing flat"


def test_where_a_page_goes(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "one")
    shutil.copytree(whole, tmp_path / "two")
    folders = [tmp_path / "one", tmp_path / "two"]
    assert write_reports(folders[:1], tmp_path, None) == tmp_path / "one" / "report.html"
    assert write_reports(folders, tmp_path, None) == tmp_path / "report-compare.html"
    assert write_reports(folders, tmp_path, tmp_path / "x.html") == tmp_path / "x.html"
    assert write_reports(folders[:1], tmp_path, tmp_path / "elsewhere/x.html") == tmp_path / "elsewhere/x.html"
    pages = [(tmp_path / path).read_text() for path in ("elsewhere/x.html", "one/report.html")]
    assert Outline(pages[0]).text[:20] == Outline(pages[1]).text[:20], "the run's page, not a comparison with nothing"
    with pytest.raises(ForgeError, match=r"cannot write .*y\.html: "):
        write_reports(folders[:1], tmp_path, tmp_path / "x.html" / "y.html")


def test_the_command(whole, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["forge", "report", "whole", "--runs", str(whole.parent)])
    with pytest.raises(SystemExit) as ending:
        cli.main()
    assert ending.value.code == 0 and capsys.readouterr().out.strip() == str(whole / "report.html")


def test_origins_outlive_a_run_continued_through_its_own_recipe(tmp_path):
    def plan(**origins):
        places = {("train", key): Where(file, 3) for key, file in origins.items()}
        return SimpleNamespace(
            folder=tmp_path,
            tables=["train"],
            origins=places,
            values=lambda table: {"steps": 1, "lr": 2, "ema": True},
            origin=lambda table, key: f"{places[table, key].file}:3" if (table, key) in places else "default",
        )

    keep_origins(plan(steps="a.toml", lr="b.toml"))
    assert read_origins(tmp_path) == {"train.steps": "a.toml:3", "train.lr": "b.toml:3", "train.ema": "default"}
    own = str(tmp_path / "recipe.toml")
    keep_origins(plan(steps=own, lr="command line", ema=own))
    assert read_origins(tmp_path) == {"train.steps": "a.toml:3", "train.lr": "command line:3", "train.ema": "default"}


def test_it_imports_no_torch(whole):
    code = (
        "import sys; from pathlib import Path; from cosmos_forge.report.write import write_report;"
        f"write_report(Path({str(whole)!r}));"
        "assert not {'torch', 'av', 'rich', 'typer'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_curves_carry_their_values(whole):
    curves = [json.loads(a["data-curves"]) for a in Outline(write_report(whole).read_text()).all("svg")]
    raw = next(c for each in curves for c in each if c["name"] == "as reported")
    assert raw["points"][-1] == [40, pytest.approx(read_facts(whole).steps[-1].loss, rel=1e-4)]


def test_the_policy_lets_only_the_pages_script_run():
    text = page("t")
    script = text[text.index("<script>") + len("<script>") : text.index("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(meta["content"] for meta in Outline(text).all("meta") if "http-equiv" in meta)
    assert f"script-src 'sha256-{digest}'" in policy
