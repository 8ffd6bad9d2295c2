"""Serve ONNX image classifiers over HTTP."""
