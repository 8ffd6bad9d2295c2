"""Classify files by the million: find them, run them here, write what came out."""
