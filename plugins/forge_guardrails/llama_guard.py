"""Llama Guard 3 about prompts (Llama Team 2024, arXiv 2407.21783, section 5.4), by way of transformers.

The wording around a prompt is the chat template that comes with the weights.
Upstream: cosmos-predict1, auxiliary/guardrail/llamaGuard3. There an answer that nobody understands lets the prompt
pass, as does whatever goes wrong; here both stop the video.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from cosmos_forge import Context, ForgeError
from cosmos_forge.types import Refusal
from forge_guardrails.categories import HAZARDS
from forge_guardrails.files import FIX, load_pretrained
from forge_guardrails.plugin import LlamaGuardOptions

ANSWER_TOKENS = 100  # as upstream; "unsafe" and all codes take fewer


def build(options: LlamaGuardOptions, context: Context) -> LlamaGuard:
    """The guardrail `llama-guard` of a recipe."""
    folder = options.folder_of(options.model, context.files)
    return LlamaGuard(folder, options.allow, context.device, context.dtype)


class LlamaGuard:
    """`kinds.Guardrail` of prompts. Raises ForgeError for files that are missing or are no such model."""

    def __init__(self, folder: Path, allow: Collection[str], device: torch.device, dtype: torch.dtype) -> None:
        self.allow, self.device = allow, device
        self.model = load_pretrained(LlamaForCausalLM, folder, dtype).to(device)
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise ForgeError(f"[guardrail] {folder} holds no tokenizer: {str(error).splitlines()[0]}", FIX) from error
        if not self.tokenizer.chat_template:
            raise ForgeError(
                f"[guardrail] the tokenizer in {folder} has no chat template, which asks the question", FIX
            )

    def check_prompt(self, prompt: str) -> Refusal | None:
        """Greedy, so that the same prompt gets the same answer."""
        text = self.question(prompt)
        ids_1L = self.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"].to(self.device)
        answer_1L = self.model.generate(
            input_ids=ids_1L,
            attention_mask=torch.ones_like(ids_1L),
            max_new_tokens=ANSWER_TOKENS,
            do_sample=False,
            temperature=None,
            top_p=None,
            pad_token_id=0,
        )
        answer = self.tokenizer.decode(answer_1L[0, ids_1L.shape[1] :], skip_special_tokens=True)
        return read_answer(answer, self.allow)

    def question(self, prompt: str) -> str:
        """What the model goes on from. A prompt cannot end its own turn: control tokens in it are broken up."""
        harmless = prompt.replace("<|", "< |")
        text: str = self.tokenizer.apply_chat_template([{"role": "user", "content": harmless}], tokenize=False)
        return text


def read_answer(answer: str, allow: Collection[str] = ()) -> Refusal | None:
    """ "safe", or "unsafe" and a line of codes. Raises ForgeError for everything else."""
    verdict, _, rest = answer.strip().partition("\n")
    verdict = verdict.strip().lower()
    if verdict == "safe":
        return None
    if verdict != "unsafe":
        what = f"[guardrail] Llama Guard's answer is neither safe nor unsafe: {answer[:100]!r}"
        raise ForgeError(what, "are these the weights of Llama Guard 3, and their own chat template?")
    codes = re.findall(r"S\d+", rest.upper())
    if codes and all(code in allow for code in codes):
        return None
    found = ", ".join(HAZARDS.get(code, code) for code in codes) or "unsafe"
    return Refusal(found, f"Llama Guard 3 says {', '.join(codes) or 'unsafe'}")
