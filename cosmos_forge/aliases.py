"""Short names for the keys that people change when they generate: `input=photo.jpg` is `generate.input=photo.jpg`."""

from __future__ import annotations

# Where nothing is trained. What stands for several keys takes as many values, with "x" between.
ALIASES = {
    "input": "generate.input",
    "prompt": "generate.prompt",
    "negative_prompt": "generate.negative_prompt",
    "weights": "generate.weights",
    "given": "generate.given_frames",
    "frames": "generate.num_frames",
    "size": "generate.height x generate.width",
    "fps": "generate.fps",
    "resize": "generate.resize",
    "guidance": "generate.guidance",
    "steps": "sampler.steps",
    "seed": "generate.seed",
}


def expand(override: str, trains: bool) -> list[str]:
    """An override of the command line with its keys written in full. Raises ValueError, saying what to write, for an
    alias that might mean something else because a recipe `trains`; `seed` then is the recipe's own."""
    alias, equals, value = override.partition("=")
    alias = alias.strip()
    if not equals or alias not in ALIASES or (trains and alias == "seed"):
        return [override]
    keys = ALIASES[alias].split(" x ")
    if trains:
        raise ValueError(f"`{alias}` is short for {' and '.join(keys)} only where nothing is trained; write it in full")
    values = value.split("x") if len(keys) > 1 else [value]
    if len(values) != len(keys):
        example = "x".join(["704", "1280"][: len(keys)])
        raise ValueError(f"{alias} is {ALIASES[alias]}, as in {alias}={example}; got {value}")
    return [f"{key}={each}" for key, each in zip(keys, values, strict=True)]


def told() -> str:
    """All of them, for a page of help."""
    return "Short names: " + ", ".join(f"{alias} ({keys})" for alias, keys in ALIASES.items()) + "."
