"""Guardrails: a list of words, Llama Guard 3, the Cosmos video filter, and pixelated faces."""
