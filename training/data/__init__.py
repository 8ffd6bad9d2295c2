"""Labelled images as tensors, and their augmentation."""
