"""What the models call what they find."""

from __future__ import annotations

# Llama Guard 3: the MLCommons taxonomy of hazards and code interpreter abuse (its model card).
HAZARDS = {
    "S1": "violent crimes",
    "S2": "non-violent crimes",
    "S3": "sex-related crimes",
    "S4": "child sexual exploitation",
    "S5": "defamation",
    "S6": "specialized advice",
    "S7": "privacy",
    "S8": "intellectual property",
    "S9": "indiscriminate weapons",
    "S10": "hate",
    "S11": "suicide and self-harm",
    "S12": "sexual content",
    "S13": "elections",
    "S14": "code interpreter abuse",
}

# The Cosmos video safety filter, by the number of the class.
SCENES = ("safe", "sexual content", "violence", "drugs", "child abuse", "hate and harassment", "self-harm")
