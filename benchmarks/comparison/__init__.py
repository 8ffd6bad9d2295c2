"""Our service and others under the same load; ``benchmarks/serving.py`` runs it."""
