"""Samplers that walk from noise to a clean sample: euler, heun and res."""
