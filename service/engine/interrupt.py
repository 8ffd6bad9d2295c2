"""End a run of ONNX Runtime from another thread.

``RunOptions.terminate`` ends what runs with these options, at the end of the operator that it is
at; a loop inside the graph, after the operators of a round. One operator that never ends can't be
ended by anything.
"""

from __future__ import annotations

import threading
from typing import Any

import onnxruntime as ort

_of_thread = threading.local()


class Interrupt:
    """Ends what one thread runs.

    ``InterruptibleSession`` finds it by the thread, so that nothing in between needs to know.
    """

    def __init__(self) -> None:
        """End nothing yet."""
        self._options = ort.RunOptions()

    def adopt_thread(self) -> None:
        """Be the one for runs of this thread from now on."""
        _of_thread.options = self._options

    def end_run(self) -> None:
        """End what the thread runs, and whatever it begins later; from another thread."""
        self._options.terminate = True


class InterruptibleSession(ort.InferenceSession):  # type: ignore[misc]
    """An ``InferenceSession`` whose runs an ``Interrupt`` ends."""

    def run(self, output_names: Any, input_feed: Any, run_options: Any = None) -> Any:
        """As the base class; options that are given come before those of the thread."""
        options = run_options or getattr(_of_thread, "options", None)
        return super().run(output_names, input_feed, options)
