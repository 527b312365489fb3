"""Samplers that walk from noise to a clean sample: euler, heun, res and dpmpp-2m."""
