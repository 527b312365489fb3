"""The page of a run in a real browser, and that a run leaves one however it ends."""

import base64
import fcntl
import json
import os
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

from cosmos_forge.report.write import write_comparison, write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SWITCHES = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
]
PHONE, DESK = (390, 844), (1280, 900)
SHOTS = os.environ.get("FORGE_SHOTS")  # a folder for screenshots, to look at

make_run = runpy.run_path(str(Path(__file__).parents[1] / "made_run.py"))["make_run"]
browsing = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)")


class Browser:
    """Headless Chromium, spoken to through a pipe (Chrome DevTools Protocol). heard: what it said by itself."""

    def __init__(self, home):
        ours, theirs = os.pipe(), os.pipe()
        high = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (ours[0], theirs[1])]

        def take_pipes():
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        self.process = subprocess.Popen(
            [CHROMIUM, *SWITCHES, f"--user-data-dir={home}"],
            preexec_fn=take_pipes,
            pass_fds=(3, 4),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (*high, ours[0], theirs[1]):
            os.close(end)
        self.to, self.of = os.fdopen(ours[1], "wb", 0), os.fdopen(theirs[0], "rb")
        self.number, self.session, self.heard, self.rest = 0, None, [], b""

    def ask(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.to.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]
            self.heard.append(answer)

    def _next(self):
        while b"\0" not in self.rest:
            chunk = os.read(self.of.fileno(), 1 << 20)
            assert chunk, "the browser is gone"
            self.rest += chunk
        line, _, self.rest = self.rest.partition(b"\0")
        return json.loads(line)

    def open(self, path, size, scheme="light"):
        """Shows a file, offline, and waits until it is loaded."""
        self.session = None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        self.ask(
            "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1
        )
        width, height = size
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.heard.clear()
        self.ask("Page.navigate", url=path.resolve().as_uri())
        self.run("new Promise(done => document.readyState == 'complete' ? done() : addEventListener('load', done))")

    def run(self, script):
        """The value of an expression, or of what it promises."""
        answer = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def said(self, *methods):
        return [each["params"] for each in self.heard if each.get("method") in methods]

    def shoot(self, name):
        """A PNG of the whole page, kept where somebody wants to look."""
        data = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        picture = base64.b64decode(data)
        if SHOTS:
            (Path(SHOTS) / f"{name}.png").write_bytes(picture)
        return picture


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("browser"))
    yield browser
    browser.process.terminate()
    browser.process.wait(timeout=20)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return write_report(make_run(tmp_path_factory.mktemp("runs") / "whole"))


PLAY = """
Promise.all([...document.querySelectorAll("section#videos video")].map(async (video) => {
  await video.play();
  while (video.currentTime < 0.2) await new Promise((done) => setTimeout(done, 20));
  video.pause();
  return [video.readyState, video.videoWidth, video.videoHeight, video.currentTime > 0, video.error];
}))
"""


@browsing
@pytest.mark.parametrize(("size", "scheme"), [(DESK, "light"), (PHONE, "dark")], ids=["desk", "phone"])
def test_the_page_shows_and_asks_for_nothing(browser, page, size, scheme):
    browser.open(page, size, scheme)
    assert len(browser.shoot(f"report-{size[0]}-{scheme}")) > 20_000
    assert browser.run("document.title") == "whole", "a caption with a script is only text"
    assert browser.run("document.documentElement.scrollWidth") <= size[0], "nothing is wider than the screen"
    pictures = "[...document.images].every(each => each.complete && each.naturalWidth > 0)"
    assert browser.run(pictures)
    paper = browser.run("getComputedStyle(document.body).backgroundColor")
    bright = sum(int(each) for each in paper.strip("rgb()").split(",")) / 3
    assert bright > 240 if scheme == "light" else bright < 40
    asked = [each["request"]["url"] for each in browser.said("Network.requestWillBeSent")]
    assert [url for url in asked if not url.startswith("data:")] == [page.resolve().as_uri()]
    entries = [each["entry"]["text"] for each in browser.said("Log.entryAdded")]
    assert [*entries, *browser.said("Runtime.exceptionThrown", "Runtime.consoleAPICalled")] == []


@browsing
def test_its_videos_play(browser, page):
    browser.open(page, DESK)
    played = browser.run(PLAY)
    assert len(played) == 4
    for ready, width, height, moved, error in played:
        assert (width, height, moved, error) == (64, 48, True, None) and ready >= 2
    together = "document.querySelector('section#videos .clip')"
    browser.run(f"{together}.querySelector('button').click()")
    both = f"[...{together}.querySelectorAll('video')].every(video => !video.paused)"
    assert browser.run(f"new Promise(done => setTimeout(() => done({both}), 100))")
    assert browser.run(f"{together}.querySelector('button').textContent") == "pause"


@browsing
def test_curves_tell_their_values(browser, page):
    browser.open(page, DESK)
    read = """
    const svg = document.querySelector("svg"), place = svg.getBoundingClientRect();
    svg.dispatchEvent(new PointerEvent("pointermove", {clientX: place.right - 5, clientY: place.top + 50}));
    document.querySelector(".reading").innerText
    """
    assert browser.run(read).startswith("step 40\nas reported 0.306")


@browsing
def test_files_too_large_for_a_page_play_from_beside_it(browser, page, tmp_path):
    folder = shutil.copytree(page.parent, tmp_path / "linked run")
    browser.open(write_report(folder, limit=0), DESK)
    assert all(each[3] for each in browser.run(PLAY))
    asked = {each["request"]["url"] for each in browser.said("Network.requestWillBeSent")}
    assert any(url.endswith("linked%20run/videos/0003-0.mp4") for url in asked)
    assert all(url.startswith(("file://", "data:")) for url in asked)


@browsing
def test_a_comparison_shows(browser, page, tmp_path):
    other = make_run(tmp_path / "other", lr=0.5)
    browser.open(write_comparison([page.parent, other], tmp_path / "both.html"), DESK)
    browser.shoot("comparison")
    assert len(browser.run(PLAY)) == 6
    assert browser.said("Log.entryAdded", "Runtime.exceptionThrown") == []


def test_a_run_leaves_a_page_when_it_is_done_and_when_it_fails(workplace):
    said = workplace.run("paged", "stages=['prepare']")
    path = workplace.of("paged") / "report.html"
    assert "runs/paged/report.html" in said and "train.steps" in path.read_text()
    assert "small.toml:" in path.read_text() and "command line" in path.read_text()
    (workplace.of("paged") / "prepared" / "index.jsonl").write_text("")
    said = workplace.run("paged", "--continue", "stages=['train']", code=2)
    assert "runs/paged/report.html" in said
    assert "no clips are left to train on" in path.read_text()
    assert "train failed" in path.read_text()


def test_a_page_that_cannot_be_written_does_not_hurt_the_run(workplace):
    (workplace.of("hindered") / "stages").mkdir(parents=True)
    (workplace.of("hindered") / "stages" / "mine.toml").write_text("this is no TOML")
    said = workplace.run("hindered", "stages=['prepare']")
    assert said.count("report.html was not written") == 1 and "hindered: done" in said
    assert (workplace.of("hindered") / "prepared" / "index.jsonl").exists()
    assert not (workplace.of("hindered") / "report.html").exists()
