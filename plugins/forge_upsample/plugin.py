"""Registers `pixtral` and `openai-compatible`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import Field

from cosmos_forge import Download, HubOptions, Options, Problem, hookimpl

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan

INSTRUCTIONS = (
    "The picture is the first frame of a video. What is to happen in it: {prompt}\n"
    "Describe the whole video in one paragraph of at most 150 words: what is seen, how it looks, how it moves and how "
    "the camera moves. Start from the picture, keep to what was asked for, and add nothing that contradicts either. "
    "Answer with the description alone."
)


class RequestOptions(Options):
    """What both have in common."""

    instructions: str = Field(
        INSTRUCTIONS, min_length=1, description="what is asked beside the frame; {prompt} stands for your prompt"
    )
    max_new_tokens: int = Field(400, ge=1, description="length of the answer at most, in tokens; 400 as in Cosmos")
    max_side: int = Field(1024, ge=64, description="pixels; a larger frame is reduced to it; 1024 as in Cosmos")

    def request(self, prompt: str) -> str:
        """The instructions about a prompt; an empty one leaves the rest to the picture."""
        return self.instructions.replace("{prompt}", prompt.strip() or "whatever the picture suggests")


class PixtralOptions(RequestOptions, HubOptions):
    """Writes prompts with Pixtral 12B, which Cosmos-Predict1 uses; 25 GB of weights."""

    model: str = Field(
        "mistral-community/pixtral-12b",
        description="a folder, or owner/name on the hub: Pixtral in the form of transformers",
    )

    def needs(self) -> list[Download]:
        return self.needs_of(self.model, ("*.json", "*.jinja", "*.safetensors"), 25.4, "Apache-2.0")

    def check(self, plan: Plan) -> Iterable[Problem]:
        return self.check_place(plan, "model")


class OpenAIOptions(RequestOptions):
    """Writes prompts with a model behind a server that speaks OpenAI's protocol: vLLM, llama.cpp, Ollama and others."""

    base_url: str = Field(description="of the server, as in http://localhost:8000/v1")
    model: str = Field(description="its name for the model; one that sees pictures, unless send_frame is off")
    api_key_variable: str | None = Field(
        None, description="environment variable that holds the key, never the key itself; default: none is sent"
    )
    send_frame: bool = Field(True, description="send the frame, as a JPEG; off for models that only read")
    temperature: float = Field(0.0, ge=0, le=2, description="0: as little chance as the server offers")
    timeout: float = Field(120.0, gt=0, description="seconds to wait for an answer")
    retries: int = Field(3, ge=0, description="how often to ask again when the server is busy or away")

    def check(self, plan: Plan) -> Iterable[Problem]:
        address = urlsplit(self.base_url)
        if address.scheme not in ("http", "https") or not address.netloc:
            fix = "an address looks like http://localhost:8000/v1"
            yield plan.problem("prompt_upsampler", "base_url", f"{self.base_url!r} is no address", fix)
        variable = self.api_key_variable
        if variable is None:
            return
        if not re.fullmatch(r"[A-Za-z_]\w*", variable, re.ASCII):
            fix = 'write api_key_variable = "NAME", and put the key in that variable; a recipe is no place for keys'
            yield plan.problem("prompt_upsampler", "api_key_variable", "that is no name of a variable", fix)
        elif not os.environ.get(variable):
            what = f"the environment has no {variable}, which should hold the key"
            yield plan.problem("prompt_upsampler", "api_key_variable", what, f"export {variable}=...")


@hookimpl
def register_prompt_upsamplers(register):
    register("pixtral", options=PixtralOptions, build="forge_upsample.pixtral:build")
    register("openai-compatible", options=OpenAIOptions, build="forge_upsample.server:Server")
