"""Find the settings that fit a latency and a memory limit, by measuring the real service."""
