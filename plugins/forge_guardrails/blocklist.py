"""Whole words that a prompt may not hold."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from cosmos_forge import Context, ForgeError
from cosmos_forge.types import Refusal
from forge_guardrails.plugin import BlocklistOptions


class Blocklist:
    """`kinds.Guardrail` of prompts. Knows nothing of meaning, spelling mistakes or other languages."""

    def __init__(self, options: BlocklistOptions, context: Context) -> None:
        from_file = read_words(Path(options.file)) if options.file else []
        self.words = [words for words in map(split, [*options.words, *from_file]) if words]
        if not self.words:
            raise ForgeError("[guardrail] the blocklist holds no word", "give `words`, or a `file` with some")

    def check_prompt(self, prompt: str) -> Refusal | None:
        said = split(prompt)
        for words in self.words:
            if any(said[start : start + len(words)] == words for start in range(len(said) - len(words) + 1)):
                return Refusal("blocklist", f"the prompt holds `{' '.join(words)}`")
        return None


def split(text: str) -> list[str]:
    """Words as they are compared: compatibility forms, accents and case folded, whatever stands between them dropped.

    So "ＫＮＩＦＥ", "knife" and "Knife!" are one word, as are "café" and "cafe"; invisible characters within a word go.
    """
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    bare = "".join(each for each in folded if unicodedata.category(each) not in ("Mn", "Cf"))
    return re.findall(r"[^\W_]+", bare)


def read_words(path: Path) -> list[str]:
    """One word or phrase a line; empty lines and what follows a # are dropped. Raises ForgeError."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ForgeError(f"the blocklist {path} cannot be read: {error}", "it is a text file in UTF-8") from error
    return [word for line in lines if (word := line.partition("#")[0].strip())]
