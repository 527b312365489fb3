"""fetch against a server that speaks the hub's interface: each fetch is a process of its own, as in a run."""

import json
import os
import random
import runpy
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from cosmos_forge import Download, ForgeError, events, machine, worker

server = runpy.run_path(str(Path(__file__).parents[1] / "hub_server.py"))
HubServer, Repo = server["HubServer"], server["Repo"]

FETCH = """
import json, sys
from types import SimpleNamespace
from cosmos_forge import Download, ForgeError, events, machine
from cosmos_forge.stages import fetch

downloads = [Download(**{**each, "files": tuple(each["files"])}) for each in json.loads(sys.argv[1])]
exec(sys.argv[2])
try:
    fetch.run(SimpleNamespace(downloads=lambda: downloads), None, lambda event: print(events.to_line(event, 0)))
except ForgeError as error:
    sys.exit(str(error))
"""

LARGE = random.Random(0).randbytes(8 << 20)
WEIGHTS = Download("someone/weights", ("model.pt", "config.json"), 0.008, "a licence")
TEXT = Download("someone/text", ("*.safetensors",), 0.001)
CLIPS = Download("someone/clips", ("videos/*.mp4",), 0.002, repo_type="dataset")


class Fetched:
    """What a fetch did: its exit code, its events and its errors as text."""

    def __init__(self, done):
        self.code, self.errors = done.returncode, done.stderr
        self.events = [events.from_line(line).event for line in done.stdout.splitlines()]

    @property
    def notes(self):
        return [event.text for event in self.events if isinstance(event, events.Note)]

    def progress(self, what):
        return [event for event in self.events if isinstance(event, events.Progress) and event.what == what]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with HubServer() as hub:
        hub.repos = {
            "models/someone/weights": Repo({"model.pt": LARGE, "config.json": b"{}", "README.md": b"not asked for"}),
            "models/someone/text": Repo({"a.safetensors": LARGE[:5000], "b.safetensors": LARGE[:7000], "x.bin": LARGE}),
            "datasets/someone/clips": Repo({"videos/1.mp4": LARGE[:20_000], "README.md": b"not asked for"}),
        }
        yield hub


@pytest.fixture
def fetch(hub, tmp_path):
    """fetch(downloads..., before=code to run first, NAME=environment)."""

    def fetch(*downloads, before="", **environment):
        asked = json.dumps([asdict(download) for download in downloads])
        clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        settings = {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HOME": str(tmp_path / "home")}
        done = subprocess.run(
            [sys.executable, "-c", FETCH, asked, before],
            env={**clean, **settings, **environment},
            capture_output=True,
            text=True,
            timeout=120,
        )
        return Fetched(done)

    return fetch


def contents(download):
    folder = worker.files(download)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_only_what_is_needed_comes_and_is_announced(hub, fetch):
    fetched = fetch(WEIGHTS, TEXT, CLIPS)
    assert fetched.code == 0, fetched.errors
    assert contents(WEIGHTS) == {"model.pt": LARGE, "config.json": b"{}"}
    assert contents(TEXT) == {"a.safetensors": LARGE[:5000], "b.safetensors": LARGE[:7000]}
    assert contents(CLIPS) == {"videos/1.mp4": LARGE[:20_000]}
    assert fetched.notes == ["3 repositories, 0.0 GB; 0.0 GB of it here already"]
    assert not fetched.errors  # no bars of the library's own
    total = (len(LARGE) + 2 + 5000 + 7000 + 20_000) / 1e9
    assert fetched.progress("someone/clips")[-1] == events.Progress("someone/clips", total, total, "GB")
    assert [request.path for request in hub.contents].count("model.pt") == 1
    assert hub.sent("model.pt") == len(LARGE)


def test_a_star_goes_across_folders(hub, fetch):
    """What has come counts as here: the hub's patterns are no shell's."""
    files = {"meta/info.json": b"{}", "meta/episodes/0/0.parquet": b"rows", "videos/up/chunk-000/0.mp4": LARGE[:100]}
    hub.repos["datasets/someone/arms"] = Repo(files | {"data/0.parquet": b"not asked for"})
    arms = Download("someone/arms", ("meta/*", "videos/*.mp4"), 0.001, repo_type="dataset")
    assert fetch(arms).code == 0
    assert contents(arms) == files
    assert machine.downloaded_gigabytes(arms) == 106 / 1e9
    assert fetch(arms).notes == ["1 repository, 0.0 GB, all here already"]


def test_sizes_are_told_in_gigabytes_and_progress_only_grows(hub, fetch):
    fetched = fetch(WEIGHTS, before="fetch.INTERVAL = 0")
    done = [event.done for event in fetched.progress("someone/weights")]
    assert len(done) > 2 and done == sorted(done)
    assert fetched.progress("checking model.pt")[-1].total == len(LARGE) / 1e9


def test_what_is_here_is_not_asked_for_again(hub, fetch):
    fetch(TEXT)
    hub.contents.clear()
    hub.status = 500  # whoever asks now fails
    fetched = fetch(TEXT)
    assert fetched.code == 0 and fetched.notes == ["1 repository, 0.0 GB, all here already"]
    read_only = "fetch._turn = None"  # nothing is written either
    assert fetch(TEXT, before=read_only, HF_HUB_OFFLINE="1").code == 0
    hub.status = 0
    assert fetch(TEXT, WEIGHTS).code == 0
    assert not [request for request in hub.contents if "safetensors" in request.path]


def test_a_connection_that_breaks_is_taken_up_again(hub, fetch):
    hub.breaks["model.pt"] = [3 << 20, 2 << 20]
    fetched = fetch(WEIGHTS)
    assert fetched.code == 0, fetched.errors
    assert contents(WEIGHTS)["model.pt"] == LARGE
    ranges = [request.range for request in hub.contents if request.path == "model.pt"]
    assert ranges == ["", f"bytes={3 << 20}-", f"bytes={5 << 20}-"]
    assert hub.sent("model.pt") == len(LARGE)


def test_a_fetch_that_failed_goes_on_where_it_stopped(hub, fetch):
    hub.breaks["model.pt"] = [(5 << 20) + 1000] + [0] * 20
    first = fetch(WEIGHTS, before="import time; time.sleep = lambda seconds: None")
    assert first.code == 1
    assert "someone/weights could not be downloaded" in first.errors and "goes on where it stopped" in first.errors
    assert not machine.is_downloaded(WEIGHTS)
    with pytest.raises(ForgeError, match="someone/weights is not on this machine"):
        worker.files(WEIGHTS)
    hub.breaks.clear()
    hub.contents.clear()
    second = fetch(WEIGHTS)
    assert second.code == 0, second.errors
    assert [request.range for request in hub.contents if request.path == "model.pt"] == [f"bytes={5 << 20}-"]
    assert hub.sent("model.pt") == 3 << 20
    assert contents(WEIGHTS)["model.pt"] == LARGE


def test_a_fetch_that_was_killed_goes_on_where_it_stopped(hub, fetch):
    kill = """
import os, signal
tell = fetch._Teller.__call__
def tell_or_die(self, what, total, before, more):
    if more > 5 << 20:
        os.kill(os.getpid(), signal.SIGKILL)
    tell(self, what, total, before, more)
fetch._Teller.__call__ = tell_or_die
"""
    assert fetch(WEIGHTS, before=kill).code == -9
    hub.contents.clear()
    assert fetch(WEIGHTS).code == 0 and contents(WEIGHTS)["model.pt"] == LARGE
    (second,) = [request for request in hub.contents if request.path == "model.pt"]
    assert second.sent < len(LARGE) - (5 << 20) and second.range == f"bytes={len(LARGE) - second.sent}-"


def test_what_comes_damaged_is_not_kept(hub, fetch):
    hub.damage = {"config.json", "model.pt"}
    fetched = fetch(WEIGHTS)
    assert fetched.code == 1 and "came damaged" in fetched.errors
    assert not list((machine.hub_cache()).rglob("*.incomplete"))
    hub.damage = set()
    assert fetch(WEIGHTS).code == 0 and contents(WEIGHTS)["model.pt"] == LARGE


def test_a_gated_repository(hub, fetch):
    hub.repos["models/someone/weights"] = Repo({"model.pt": LARGE, "config.json": b"{}"}, gated="secret")
    fetched = fetch(TEXT, WEIGHTS)
    assert fetched.code == 1
    assert "someone/weights asks you to accept its licence first (a licence)" in fetched.errors
    assert f"{hub.url}/someone/weights" in fetched.errors and "hf auth login" in fetched.errors
    assert not hub.contents  # told before anything is downloaded
    other = fetch(WEIGHTS, HF_TOKEN="of-another-account")
    assert "the account of your token has not been let in" in other.errors
    assert fetch(WEIGHTS, HF_TOKEN="secret").code == 0
    (large,) = [request for request in hub.contents if request.path == "model.pt"]
    assert large.authorization == ""  # the storage is another host


ASK = """
import json, sys
from cosmos_forge import Download, hub
downloads = [Download(**{**each, "files": tuple(each["files"])}) for each in json.loads(sys.argv[1])]
print(json.dumps([problem.what for problem in hub.barred(downloads)]))
"""


def test_what_bars_a_download_is_known_before(hub, tmp_path):
    hub.repos["models/someone/weights"] = Repo({"model.pt": LARGE}, gated="secret")

    def barred(**more):
        asked = json.dumps([asdict(each) for each in (WEIGHTS, CLIPS, Download("no/where", ("*",), 1.0))])
        clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        env = {**clean, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), **more}
        return json.loads(subprocess.check_output([sys.executable, "-c", ASK, asked], env=env, text=True))

    first, second = barred()
    assert first == "someone/weights asks you to accept its licence first (a licence)"
    assert second.startswith("no/where does not exist")
    assert barred(HF_TOKEN="secret") == ["no/where does not exist, or your token may not read it"]
    (nobody,) = barred(HF_ENDPOINT="http://127.0.0.1:9")
    assert "someone/weights could not be downloaded from http://127.0.0.1:9" in nobody
    assert not hub.contents


def test_repositories_that_cannot_be_read_are_told_together(hub, fetch):
    hub.repos["models/someone/weights"] = Repo({"model.pt": LARGE}, private="secret")
    fetched = fetch(WEIGHTS, Download("no/where", ("*",), 1.0), Download(**{**asdict(TEXT), "revision": "v9"}))
    lines = [line for line in fetched.errors.splitlines() if line.startswith("error:")]
    assert lines == [
        "error: someone/weights does not exist, or is not open to everybody, and there is no token here",
        "error: no/where does not exist, or is not open to everybody, and there is no token here",
        "error: someone/text has no revision v9",
    ]
    assert "does not exist, or your token may not read it" in fetch(WEIGHTS, HF_TOKEN="other").errors
    assert "the token is not valid" in fetch(WEIGHTS, HF_TOKEN="invalid").errors


def test_files_that_a_repository_lacks(fetch):
    fetched = fetch(Download("someone/text", ("*.safetensors", "spiece.model"), 1.0))
    assert "someone/text holds no spiece.model (revision main)" in fetched.errors


def test_a_hub_that_is_unwell(hub, fetch):
    hub.status = 503
    fetched = fetch(WEIGHTS)
    assert fetched.code == 1 and "HTTP 503" in fetched.errors and "wait a while" in fetched.errors


def test_no_network(fetch):
    fetched = fetch(WEIGHTS, TEXT, HF_ENDPOINT="http://127.0.0.1:9")
    assert fetched.code == 1
    assert "someone/weights could not be downloaded from http://127.0.0.1:9" in fetched.errors
    assert "someone/text" not in fetched.errors  # the same for all
    assert "HF_HUB_OFFLINE=1" in fetched.errors and str(machine.hub_cache()) in fetched.errors


def test_offline(fetch):
    fetched = fetch(WEIGHTS, TEXT, HF_HUB_OFFLINE="1")
    assert fetched.code == 1
    assert fetched.errors.count("HF_HUB_OFFLINE forbids fetching it") == 2


def test_too_little_space_is_told_before(hub, fetch):
    fetched = fetch(WEIGHTS, before="machine.free_gigabytes = lambda folder: 0.001")
    assert fetched.code == 1 and "no disk space: 0.0 GB are to come" in fetched.errors and "HF_HOME" in fetched.errors
    assert not hub.contents


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_fills_up(hub, fetch):
    blob = machine.hub_folder(WEIGHTS) / "blobs" / server["_etag"](LARGE)
    blob.parent.mkdir(parents=True)
    blob.with_name(f"{blob.name}.incomplete").symlink_to("/dev/full")
    fetched = fetch(WEIGHTS)
    assert fetched.code == 1 and "is full" in fetched.errors and "free some space" in fetched.errors


RECIPE = """
stages = ["fetch"]
[dataset]
use = "video-folder"
path = "hub:someone/clips/videos"
caption = "Waves."
gigabytes = 0.1
[text_encoder]
use = "t5"
model = "someone/t5"
gigabytes = 0.1
"""


def test_a_run_fetches_what_its_plugins_need_and_looks_again_each_time(hub, tmp_path):
    files = {"config.json": b"{}", "tokenizer.json": b"[]", "model.safetensors": LARGE[:9000], "tf_model.h5": LARGE}
    hub.repos["models/someone/t5"] = Repo(files, gated="secret")
    (tmp_path / "r.toml").write_text(RECIPE)

    def forge(**more):
        env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "FORGE_GPUS": "0", **more}
        command = [sys.executable, "-m", "cosmos_forge", "run", "r.toml"]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)

    refused = forge()
    assert refused.returncode == 2 and "hf auth login" in refused.stdout + refused.stderr
    assert "note: 2 repositories, 0.0 GB; 0.0 GB of it here already" in forge(HF_TOKEN="secret").stdout
    assert {request.path for request in hub.contents} == {"videos/1.mp4", *files} - {"tf_model.h5"}
    assert "note: 2 repositories, 0.0 GB, all here already" in forge(HF_HUB_OFFLINE="1").stdout
    shutil.rmtree(tmp_path / "hub" / "datasets--someone--clips")
    hub.contents.clear()
    assert forge().returncode == 0 and [request.path for request in hub.contents] == ["videos/1.mp4"]


def test_two_fetches_take_turns(hub, fetch, tmp_path):
    other = f"""
import fcntl, threading
lock = open({str(tmp_path / "hub" / ".forge.lock")!r}, "w"); fcntl.flock(lock, fcntl.LOCK_EX)
threading.Timer(0.5, lock.close).start()
"""
    (tmp_path / "hub").mkdir()
    fetched = fetch(WEIGHTS, before=other)
    assert fetched.code == 0, fetched.errors
    assert fetched.notes[0] == "waiting for another run that is downloading"
