"""Prompts by a server that speaks OpenAI's chat completions protocol."""

from __future__ import annotations

import base64
import io
import json
import os
import time
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from torch import Tensor

from cosmos_forge import Context, ForgeError
from forge_upsample.pictures import fit, to_picture
from forge_upsample.plugin import OpenAIOptions

BUSY = (408, 409, 425, 429, 500, 502, 503, 504)  # what may pass
PAUSE_SECONDS = 1.0  # before the second attempt; doubles with each


class Server:
    """`kinds.PromptUpsampler`. Asks one prompt at a time, and again where the server is busy or away."""

    def __init__(self, options: OpenAIOptions, context: Context) -> None:
        self.options = options
        self.address = f"{options.base_url.rstrip('/')}/chat/completions"
        self.key = ""
        if options.api_key_variable:
            key = os.environ.get(options.api_key_variable)
            if not key:
                what = f"[prompt_upsampler] the environment has no {options.api_key_variable}"
                raise ForgeError(what, f"export {options.api_key_variable}=...")
            self.key = key

    def upsample(self, prompt: str, frame_CHW: Tensor) -> str:
        """The server's answer. Raises ForgeError where there is none, or it was cut short."""
        options = self.options
        content: list[dict[str, Any]] = [{"type": "text", "text": options.request(prompt)}]
        if options.send_frame:
            content.insert(0, {"type": "image_url", "image_url": {"url": _data_url(frame_CHW, options.max_side)}})
        body = {
            "model": options.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": options.max_new_tokens,
            "temperature": options.temperature,
        }
        answer = self._post(json.dumps(body).encode())
        try:
            choice = json.loads(answer)["choices"][0]
            text = choice["message"]["content"]
        except (ValueError, KeyError, IndexError, TypeError):
            raise self._error(f"gave no chat completion, but {answer[:200]!r}") from None
        if not isinstance(text, str) or not text.strip():
            raise self._error("gave an empty answer")
        if choice.get("finish_reason") == "length":
            raise self._error(f"needed more than {options.max_new_tokens} tokens", "raise max_new_tokens")
        return text.strip()

    def _post(self, body: bytes) -> bytes:
        attempts = self.options.retries + 1
        for attempt in range(attempts):
            if attempt:
                time.sleep(PAUSE_SECONDS * 2 ** (attempt - 1))
            try:
                with urlopen(self._request(body), timeout=self.options.timeout) as response:
                    answer: bytes = response.read()
                    return answer
            except HTTPError as error:
                said = " ".join(error.read(2000).decode(errors="replace").split())[:300]
                why = f"answered {error.code} {error.reason}: {said}"
                if error.code not in BUSY:
                    raise self._error(why, _fix(error.code)) from None
            except (URLError, TimeoutError, HTTPException, ConnectionError) as error:
                why = f"does not answer: {getattr(error, 'reason', error) or type(error).__name__}"
        raise self._error(f"{why} ({attempts} attempt{'s' * (attempts > 1)})")

    def _request(self, body: bytes) -> Request:
        request = Request(self.address, body, {"Content-Type": "application/json"})
        if self.key:  # for this server alone, wherever it redirects to
            request.add_unredirected_header("Authorization", f"Bearer {self.key}")
        return request

    def _error(self, what: str, fix: str = "") -> ForgeError:
        fix = fix or "look at the server, or leave [prompt_upsampler] out by on = false"
        return ForgeError(f"[prompt_upsampler] {self.options.base_url} {what}", fix)


def _fix(code: int) -> str:
    if code in (401, 403):
        return "check the key in the variable that api_key_variable names"
    return "check base_url and model" if code in (404, 405) else ""


def _data_url(frame_CHW: Tensor, max_side: int) -> str:
    file, picture = io.BytesIO(), to_picture(frame_CHW)
    picture.resize(fit(*picture.size, max_side)).save(file, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
