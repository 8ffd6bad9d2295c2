"""Models, batching and inference; knows nothing of HTTP."""

import os

# ONNX Runtime's official builds send what they run, and on which machine, to Microsoft, and keep an
# id and a queue in the home folder, unless this is set before the library is loaded. Child
# processes inherit it (onnxruntime, docs/Privacy.md).
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
