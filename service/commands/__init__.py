"""Subcommands of ``adaresnet``, one file each."""
