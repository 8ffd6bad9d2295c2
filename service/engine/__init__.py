"""Models, batching and inference; knows nothing of HTTP."""
