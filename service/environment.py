"""The names that settings and flags have in the environment; imports nothing."""

from __future__ import annotations

ENV_PREFIX = "ADARESNET_"
