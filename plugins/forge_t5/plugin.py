"""Registers `t5`, `t5-pickles`, and the command `forge embed`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from cosmos_forge import Download, HubOptions, Options, Problem, hookimpl
from forge_t5.captions import faults, fingerprint, read_captions, unknown

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan

PUBLISHED = "google-t5/t5-11b"


class T5Options(HubOptions):
    """The encoder of a T5, by default T5-11B, which Cosmos-Predict1 was trained with."""

    model: str = Field(
        PUBLISHED, description="a folder, or owner/name on the Hugging Face hub; google-t5/t5-11b as in Cosmos"
    )
    width: int = Field(1024, ge=1, description="numbers a token, the model's d_model; 1024 is T5-11B's")
    max_tokens: int = Field(512, ge=2, description="tokens a prompt is padded or cut to; 512 as in Cosmos")
    dtype: Literal["fp32", "bf16"] = Field(
        "fp32", description="of weights and computation; fp32 as in Cosmos, 20 GB for T5-11B; bf16 takes half"
    )
    gigabytes: float = Field(45.2, gt=0, description="what the files on the hub weigh; 45.2 is google-t5/t5-11b")

    def needs(self) -> list[Download]:
        """The weights, unless `model` is a folder. T5-11B was published before safetensors."""
        published = self.model == PUBLISHED
        files = ("config.json", "tokenizer.json", "pytorch_model.bin" if published else "*.safetensors*")
        return self.needs_of(self.model, files, self.gigabytes, "Apache-2.0" if published else "")

    def check(self, plan: Plan) -> Iterable[Problem]:
        """Whether there is such a folder, and whether it holds a T5 of this width."""
        config = Path(self.model) / "config.json"
        if not config.parent.is_dir():
            yield from self.check_place(plan, "model")
        elif not config.exists():
            fix = "give a folder with config.json, tokenizer.json and weights, as `save_pretrained` writes them"
            yield plan.problem("text_encoder", "model", f"{self.model} holds no config.json", fix)
        elif (width := json.loads(config.read_text()).get("d_model")) != self.width:
            what = f"width is {self.width}, but {self.model} gives {width} numbers a token (d_model)"
            yield plan.problem("text_encoder", "width", what, f"width = {width}")


class T5PicklesOptions(Options):
    """Embeddings that lie beside captions: `t5_xxl/*.pickle`, as Cosmos post-training makes them; encodes nothing."""

    path: str = Field(description="folder that holds `metas/*.txt` and `t5_xxl/*.pickle`, one name for both")
    width: int = Field(1024, ge=1, description="numbers a token; 1024 is T5-11B's, as in Cosmos")
    max_tokens: int = Field(512, ge=1, description="tokens an embedding is padded to with zeros; 512 as in Cosmos")

    @property
    def folder(self) -> Path:
        return Path(self.path).expanduser()

    def fingerprint(self) -> str:
        """Of captions and pickles; changes when one is written anew."""
        return fingerprint(self.folder)

    def check(self, plan: Plan) -> Iterable[Problem]:
        """Whether every caption has an embedding, of itself as far as is known, and prompts are captions."""
        found = list(faults(self.folder))
        for what, fix in found:
            yield plan.problem("text_encoder", "path", what, fix)
        if found or "generate" not in plan.stages or "generate" not in plan.tables:
            return
        captions = set(read_captions(self.folder)[0].values())
        for key in ("prompt", "negative_prompt"):
            prompt = getattr(plan.generate, key)
            if prompt and prompt.strip() not in captions:
                yield plan.problem("generate", key, *unknown(prompt.strip(), captions))


@hookimpl
def register_text_encoders(register):
    register("t5", options=T5Options, build="forge_t5.t5:build")
    register("t5-pickles", options=T5PicklesOptions, build="forge_t5.stored:T5Pickles")


@hookimpl
def register_commands(register):
    register(
        "embed",
        help="Write T5 embeddings of a dataset's captions, for `t5-pickles` and for the reference.",
        run="forge_t5.commands:embed",
    )
