"""Cosmos-Predict1: the diffusion transformer, its weights and its latent tokenizer."""
