"""The HTTP layer; knows nothing of ONNX Runtime."""
