"""Fold, write, verify and publish a trained network."""
