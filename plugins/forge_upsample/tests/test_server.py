"""The prompt upsampler openai-compatible, against a server on this machine."""

import base64
import io
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from cosmos_forge import ForgeError
from cosmos_forge.testing import PromptUpsamplerContract, make_context
from cosmos_forge.testing.guard import make_frames
from forge_upsample import server as module
from forge_upsample.plugin import OpenAIOptions
from forge_upsample.server import Server


def completion(text, finish="stop") -> tuple[int, str]:
    return 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}]})


class Answers:
    """A server that gives these answers, (status, body), the last one for ever. asked: path, headers, body. location:
    where a redirection leads."""

    def __init__(self, *answers: tuple[int, str], delay: float = 0.0, location: str = "") -> None:
        self.asked, given = [], list(answers)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler):
                body = handler.rfile.read(int(handler.headers["Content-Length"] or 0))
                self.asked.append((handler.path, dict(handler.headers), json.loads(body or "null")))
                time.sleep(delay)
                status, text = given[0] if len(given) == 1 else given.pop(0)
                handler.send_response(status)
                handler.send_header("Content-Length", str(len(text.encode())))
                handler.send_header("Location", location)
                handler.end_headers()
                handler.wfile.write(text.encode())

            do_GET = do_POST

            def log_message(handler, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.0)


def ask(tmp_path, url: str, prompt: str = "a ball falls", size: tuple[int, int] = (48, 64), **options) -> str:
    server = Server(OpenAIOptions(base_url=url, model="some", **options), make_context(tmp_path))
    return server.upsample(prompt, make_frames(1, *size)[:, 0])


class TestOpenAICompatible(PromptUpsamplerContract):
    use = "openai-compatible"
    answers = Answers(completion("a long prompt"))
    options = {"base_url": answers.url, "model": "some"}


def test_what_is_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "secret")
    answers = Answers(completion("  Slowly, a ball falls. \n"))
    said = ask(
        tmp_path, answers.url + "/", size=(90, 200), max_side=100, api_key_variable="SOME_KEY", max_new_tokens=50
    )
    assert said == "Slowly, a ball falls."
    ((path, headers, body),) = answers.asked
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer secret"
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("some", 50, 0)
    picture, text = body["messages"][0]["content"]
    assert "a ball falls" in text["text"]
    kind, data = picture["image_url"]["url"].split(",")
    shown = Image.open(io.BytesIO(base64.b64decode(data)))
    assert kind == "data:image/jpeg;base64" and shown.size == (100, 45)
    assert abs(shown.getpixel((50, 22))[0] - int(make_frames(1, 90, 200)[0, 0, 44, 100])) < 6


def test_a_key_goes_to_no_other_server(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "secret")
    other = Answers((404, "nothing here"))
    moved = Answers((302, ""), location=other.url)
    with pytest.raises(ForgeError, match="answered 404"):
        ask(tmp_path, moved.url, api_key_variable="SOME_KEY")
    assert moved.asked[0][1]["Authorization"] == "Bearer secret"
    assert other.asked and "Authorization" not in other.asked[0][1]


def test_without_key_and_frame(tmp_path):
    answers = Answers(completion("long"))
    ask(tmp_path, answers.url, prompt="", send_frame=False, instructions="Say: {prompt}")
    _, headers, body = answers.asked[0]
    assert "Authorization" not in headers
    assert body["messages"][0]["content"] == [{"type": "text", "text": "Say: whatever the picture suggests"}]


def test_a_busy_server_is_asked_again(tmp_path):
    answers = Answers((503, "loading"), (429, "too many"), completion("long"))
    assert ask(tmp_path, answers.url) == "long" and len(answers.asked) == 3
    busy = Answers((503, "still\nloading"))
    with pytest.raises(ForgeError, match=r"answered 503 .*: still loading \(3 attempts\)"):
        ask(tmp_path, busy.url, retries=2)
    assert len(busy.asked) == 3


@pytest.mark.parametrize(
    ("answer", "what", "fix"),
    [
        ((401, '{"error": "bad key"}'), "answered 401", "check the key"),
        ((404, "no such model"), "answered 404 .*no such model", "base_url and model"),
        ((400, "no pictures"), "answered 400", "look at the server"),
        ((200, "<html>"), "gave no chat completion, but b'<html>'", ""),
        ((200, '{"choices": []}'), "gave no chat completion", ""),
        (completion(None), "gave an empty answer", ""),
        (completion("  "), "gave an empty answer", ""),
        (completion("a long", "length"), "needed more than 400 tokens", "raise max_new_tokens"),
    ],
)
def test_what_cannot_be_used_is_told_at_once(tmp_path, answer, what, fix):
    answers = Answers(answer)
    with pytest.raises(ForgeError, match=what) as error:
        ask(tmp_path, answers.url)
    assert answers.url in str(error.value) and fix in error.value.problems[0].fix and len(answers.asked) == 1


def test_a_server_that_is_away_or_slow(tmp_path):
    away = Answers(completion("long"))
    away.server.server_close()
    away.server.shutdown()
    with pytest.raises(ForgeError, match=r"does not answer: .*\(2 attempts\)"):
        ask(tmp_path, away.url, retries=1)
    with pytest.raises(ForgeError, match=r"does not answer: timed out \(1 attempt\)"):
        ask(tmp_path, Answers(completion("long"), delay=2.0).url, timeout=0.2, retries=0)


def test_the_key_is_looked_for_before_anything_runs(tmp_path, monkeypatch):
    from types import SimpleNamespace

    plan = SimpleNamespace(problem=lambda table, key, what, fix="": (key, what, fix))
    monkeypatch.delenv("SOME_KEY", raising=False)

    def problems(**options):
        return list(OpenAIOptions(**{"base_url": "http://localhost/v1", "model": "some", **options}).check(plan))

    assert problems() == []
    assert [key for key, *_ in problems(base_url="localhost:8000")] == ["base_url"]
    ((key, what, _),) = problems(api_key_variable="SOME_KEY")
    assert key == "api_key_variable" and "no SOME_KEY" in what
    ((_, what, fix),) = problems(api_key_variable="sk-a-key-itself")
    assert "sk-a-key" not in what + fix and "no place for keys" in fix
    with pytest.raises(ForgeError, match="no SOME_KEY"):
        ask(tmp_path, "http://localhost/v1", api_key_variable="SOME_KEY")
    monkeypatch.setenv("SOME_KEY", "secret")
    assert problems(api_key_variable="SOME_KEY") == []
