"""Sizes of images that training takes; apart, so that reading a configuration needs no torch."""

MIN_PX = 8
MAX_PX = 512
