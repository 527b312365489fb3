"""Guardrails and prompt upsampling in whole runs: what is made, what is not, and what is said of it."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from cosmos_forge import events, video

PLUGIN = '''
from typing import ClassVar
import torch
from pydantic import Field
from cosmos_forge import Options, hookimpl
from cosmos_forge.types import Refusal

class EyeOptions(Options):
    """A guardrail of these tests."""
    looks_at: ClassVar[tuple[str, ...]] = ("frames",)
    does: str = Field("pass", description="what it does")

class Eye:
    def __init__(self, options, context):
        self.does = options.does
        if self.does == "break":
            raise RuntimeError("no eye is here")

    def check_frames(self, frames_CTHW):
        if self.does == "refuse":
            return Refusal("violence", "frame 3 looks like it")
        changed = frames_CTHW.clone()
        changed[:, 1:] = 255
        return changed if self.does == "paint" else frames_CTHW

@hookimpl
def register_guardrails(register):
    register("eye", options=EyeOptions, build="eye_plugin:Eye")
'''
RECIPE = """
extends = "generates.toml"

[generate]
input = "pictures"
guidance = 0.0
given_frames = 1
num_frames = 9
height = 32
width = 32
"""


@pytest.fixture(scope="module")
def generate(workplace, tmp_path_factory):
    """Makes videos of two pictures, "a knife falls" and "a ball falls"; returns what was said, and the records."""
    site = tmp_path_factory.mktemp("site")
    (site / "eye_plugin.py").write_text(PLUGIN)
    (site / "eye-1.0.dist-info").mkdir()
    (site / "eye-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: eye\nVersion: 1.0\n")
    (site / "eye-1.0.dist-info" / "entry_points.txt").write_text("[cosmos_forge]\neye = eye_plugin\n")
    (workplace.folder / "guarded.toml").write_text(RECIPE)
    pictures = workplace.folder / "pictures"
    pictures.mkdir()
    for name, shade in (("knife", 60), ("ball", 180)):
        Image.fromarray(np.full((32, 32, 3), shade, dtype=np.uint8)).save(pictures / f"{name}.png")
        (pictures / f"{name}.txt").write_text(f"a {name} falls")

    def generate(name: str, *overrides: str, code: int = 0) -> tuple[str, dict[str, dict]]:
        said = workplace.forge("run", "guarded.toml", "--name", name, *overrides, code=code, PYTHONPATH=str(site))
        return said, {
            path.stem: json.loads(path.read_text()) for path in (workplace.of(name) / "videos").glob("*.json")
        }

    return generate


def videos(workplace, name: str) -> list[str]:
    return sorted(path.name for path in (workplace.of(name) / "videos").glob("*.mp4"))


def test_a_refused_prompt_leaves_its_record_and_the_others_their_videos(workplace, generate):
    both = ["parallelism.use=ddp", "parallelism.num_processes=2"]
    said, records = generate("words", 'guardrail.blocklist.words=["Knife"]', *both, code=3)
    assert "guardrail `blocklist` refuses knife.mp4: blocklist: the prompt holds `knife`" in said
    assert videos(workplace, "words") == ["ball.mp4"]
    assert records["knife"]["safety"] == {
        "state": "refused",
        "guardrails": {
            "blocklist": {"state": "refused", "category": "blocklist", "reason": "the prompt holds `knife`"}
        },
    }
    assert records["knife"]["prompt"] == "a knife falls" and records["knife"]["metrics"] == {}
    assert records["ball"]["safety"] == {"state": "on", "guardrails": {"blocklist": {"state": "on"}}}
    assert not (workplace.of("words") / "stages" / "generate.json").exists()

    off = "guardrail.blocklist.on=false"
    _, records = generate("words", 'guardrail.blocklist.words=["Knife"]', off, "--continue")
    assert videos(workplace, "words") == ["ball.mp4", "knife.mp4"]
    assert records["knife"]["safety"] == {"state": "off", "guardrails": {"blocklist": {"state": "off"}}}
    generate("words", 'guardrail.blocklist.words=["ball"]', "--continue", code=3)
    assert videos(workplace, "words") == ["knife.mp4"], "what was made without the guardrail must not outlive it"


def test_frames_are_refused_or_changed_before_they_are_written(workplace, generate):
    """Also those of a long video, which lies on disk piece by piece until it is whole."""
    long = ["generate.num_frames=17", "generate.chunk_frames=9", "generate.overlap=1"]
    _, records = generate("painted", "guardrail.eye.does=paint", "guardrail.second={use='eye'}", *long)
    states = {"eye": {"state": "on", "changed_frames": 15}, "second": {"state": "on"}}
    assert records["ball"]["safety"] == {"state": "on", "guardrails": states}
    frames = np.stack(list(video.read_frames(workplace.of("painted") / "videos" / "ball.mp4")))
    white = [frame.min() > 245 for frame in frames]
    assert white == [number not in (0, 9) for number in range(17)], "the first of each piece stays as it was"

    said, records = generate("unseen", "guardrail.eye.does=refuse", *long, code=3)
    assert "guardrail `eye` refuses ball.mp4: violence: frame 3 looks like it" in said and "refuses knife.mp4" in said
    left = {path.name for path in (workplace.of("unseen") / "videos").iterdir()}
    assert left == {"ball.json", "knife.json"} and records["ball"]["safety"]["state"] == "refused"
    assert not list(workplace.of("unseen").rglob("*.mkv"))


def test_a_guardrail_that_fails_is_no_guardrail(workplace, generate):
    said, records = generate("broken", "guardrail.eye.does=break", code=1)
    assert "guardrail `eye` failed, so there is no ball.mp4: RuntimeError: no eye is here" in said
    assert videos(workplace, "broken") == []
    assert {record["safety"]["state"] for record in records.values()} == {"failed"}
    (failed,) = [event for event in workplace.events("broken") if isinstance(event, events.StageFailed)]
    assert len([line for line in failed.problems if line.startswith("error: ")]) == 2


@pytest.fixture
def server():
    """A server that answers with what it was asked, longer; and what it was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((dict(self.headers), body))
            content = f"Slowly, {body['messages'][0]['content'][-1]['text']}"
            answer = json.dumps({"choices": [{"message": {"content": content}, "finish_reason": "stop"}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1", asked
    server.shutdown()


def test_upsampled_prompts_are_used_kept_and_looked_at(workplace, generate, server):
    address, asked = server
    upsampler = [
        "prompt_upsampler.use=openai-compatible",
        f"prompt_upsampler.base_url={address}",
        "prompt_upsampler.model=some",
        'prompt_upsampler.instructions="{prompt} to the ground"',
    ]
    _, records = generate("upsampled", *upsampler)
    record = records["ball"]
    assert (record["prompt_given"], record["prompt"]) == ("a ball falls", "Slowly, a ball falls to the ground")
    assert record["prompt_upsampler"]["use"] == "openai-compatible" and len(asked) == 2
    said, records = generate("upsampled", *upsampler, 'guardrail.blocklist.words=["slowly"]', "--continue", code=3)
    assert "the prompt holds `slowly`" in said and records["ball"]["safety"]["state"] == "refused"
    assert len(asked) == 2, "prompts that are known are not asked for again"
