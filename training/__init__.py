"""Train adaptive residual networks and export them for the service."""
