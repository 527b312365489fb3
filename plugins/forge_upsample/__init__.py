"""Prompt upsamplers: Pixtral, and any server that speaks OpenAI's protocol."""
