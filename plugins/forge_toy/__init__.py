"""A dataset, a latent tokenizer and a text encoder that need no download."""
