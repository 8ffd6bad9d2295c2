"""Mutated files and requests, drawn by Hypothesis, against a real service."""
