"""Registers the guardrails and says what a recipe may choose about them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from cosmos_forge import Download, HubOptions, Options, Problem, hookimpl
from forge_guardrails.categories import HAZARDS, SCENES

if TYPE_CHECKING:
    from cosmos_forge.plan import Plan

COSMOS = "nvidia/Cosmos-Guardrail1"
NVIDIA_LICENCE = "NVIDIA Open Model License"


class BlocklistOptions(Options):
    """Refuses prompts that hold a word of yours; no list comes along."""

    looks_at: ClassVar[tuple[str, ...]] = ("prompt",)

    words: list[str] = Field([], description="words and phrases to refuse, whole and in any case")
    file: str | None = Field(None, description="a UTF-8 text file with one word or phrase a line; # begins a comment")

    def fingerprint(self) -> str:
        """Of the file's content."""
        return "\n".join(self.words_of_file())

    def words_of_file(self) -> list[str]:
        """Raises ForgeError for a file that cannot be read."""
        from forge_guardrails.blocklist import read_words

        return read_words(Path(self.file)) if self.file and Path(self.file).is_file() else []

    def check(self, plan: Plan) -> Iterable[Problem]:
        """Whether there is a file, and any word at all, and each can be found."""
        from forge_guardrails.blocklist import split

        table = plan.name_of(self)
        for key, words in {"words": self.words, "file": self.words_of_file()}.items():
            for word in filter(str.strip, words):
                if not split(word):
                    what = f"`{word}` holds no letter and no digit, so no prompt can hold it"
                    yield plan.problem(table, key, what, "take it out: whole words of letters and digits are compared")
        if self.file and not Path(self.file).is_file():
            what = f"file {self.file} does not exist"
            yield plan.problem(table, "file", what, f"relative paths start at {Path.cwd()}")
        elif not any(map(str.strip, self.words)) and not self.fingerprint():
            yield plan.problem(table, "words", "there is no word to refuse", "give `words`, or a `file` with some")


class LlamaGuardOptions(HubOptions):
    """Refuses prompts by Llama Guard 3's 14 categories of hazards, as Cosmos-Predict1 does; 16 GB of weights."""

    looks_at: ClassVar[tuple[str, ...]] = ("prompt",)

    model: str = Field(
        "meta-llama/Llama-Guard-3-8B", description="a folder, or owner/name on the hub (gated: accept its licence)"
    )
    allow: list[str] = Field([], description="hazards that do not matter here, such as S8; S4 cannot be allowed")

    def needs(self) -> list[Download]:
        files = ("*.json", "model*.safetensors")
        return self.needs_of(self.model, files, 16.1, "Llama 3.1 Community License")

    def check(self, plan: Plan) -> Iterable[Problem]:
        yield from self.check_place(plan, "model")
        for code in self.allow:
            if code not in HAZARDS or code == "S4":
                known = ", ".join(f"{code} {name}" for code, name in HAZARDS.items() if code != "S4")
                yield plan.problem(plan.name_of(self), "allow", f"{code!r} cannot be allowed", f"what can: {known}")


class VideoFilterOptions(HubOptions):
    """Refuses videos by the Cosmos video safety filter: SigLIP's view of each frame, in 7 classes; 4 GB of weights."""

    looks_at: ClassVar[tuple[str, ...]] = ("frames",)

    model: str = Field(COSMOS, description="a folder, or owner/name on the hub, with the classifier")
    encoder: str = Field("google/siglip-so400m-patch14-384", description="a folder, or owner/name on the hub: SigLIP")
    every: int = Field(1, ge=1, description="look at every n-th frame, and the last; 1 as in Cosmos: at each")
    allow: list[str] = Field([], description=f"classes that do not matter here, of {', '.join(SCENES[1:])}")

    def needs(self) -> list[Download]:
        head = ("video_content_safety_filter/safety_filter.pt",)
        return [
            *self.needs_of(self.model, head, 0.003, NVIDIA_LICENCE),
            *self.needs_of(self.encoder, ("config.json", "*.safetensors"), 3.6, "Apache-2.0"),
        ]

    def check(self, plan: Plan) -> Iterable[Problem]:
        yield from self.check_place(plan, "model")
        yield from self.check_place(plan, "encoder")
        for name in self.allow:
            if name not in SCENES[1:] or name == "child abuse":
                known = ", ".join(each for each in SCENES[1:] if each != "child abuse")
                yield plan.problem(plan.name_of(self), "allow", f"{name!r} cannot be allowed", f"what can: {known}")


class FaceBlurOptions(HubOptions):
    """Pixelates faces that RetinaFace finds, as Cosmos-Predict1 does; 0.1 GB of weights."""

    looks_at: ClassVar[tuple[str, ...]] = ("frames",)

    model: str = Field(COSMOS, description="a folder, or owner/name on the hub, with RetinaFace's weights")
    confidence: float = Field(0.7, gt=0, lt=1, description="how sure to be that it is a face; 0.7 as in Cosmos")
    smallest: int = Field(20, ge=1, description="pixels; smaller faces are left as they are; 20 as in Cosmos")
    blocks: int = Field(5, ge=1, description="blocks a side that a face is reduced to; 5 as in Cosmos")

    def needs(self) -> list[Download]:
        return self.needs_of(self.model, ("face_blur_filter/Resnet50_Final.pth",), 0.11, NVIDIA_LICENCE)

    def check(self, plan: Plan) -> Iterable[Problem]:
        yield from self.check_place(plan, "model")


@hookimpl
def register_guardrails(register):
    register("blocklist", options=BlocklistOptions, build="forge_guardrails.blocklist:Blocklist")
    register("llama-guard", options=LlamaGuardOptions, build="forge_guardrails.llama_guard:build")
    register("video-filter", options=VideoFilterOptions, build="forge_guardrails.video_filter:build")
    register("face-blur", options=FaceBlurOptions, build="forge_guardrails.face_blur:build")
