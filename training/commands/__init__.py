"""The training commands; importing one needs no torch."""
