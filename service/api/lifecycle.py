"""Whether this process lives, has started, and can answer: what an orchestrator asks about."""

from __future__ import annotations

from service.engine.errors import StoppingError
from service.engine.predictor import Predictor

LIVE, READY, STARTED = "/healthz", "/readyz", "/startupz"
METRICS = "/metrics"
# Asked every few seconds, while the service ends too.
PROBES = frozenset((LIVE, READY, STARTED, METRICS, "/v2/health/live", "/v2/health/ready"))


class Lifecycle:
    """The state of one process.

    Attributes:
        stopping: It was told to stop: it answers, but nobody should send it more.
        refusing: It only finishes what it has.
    """

    def __init__(self, predictor: Predictor) -> None:
        """Judge by what an engine says of itself."""
        self._predictor = predictor
        self._started = False
        self.stopping = False
        self.refusing = False

    @property
    def ailment(self) -> str | None:
        """Why only a new process can help; None: this one is well."""
        return self._predictor.lanes.ailment

    @property
    def obstacle(self) -> str | None:
        """Why requests should not come here now; None: they should."""
        if self.stopping:
            return "stopping"
        found = self.ailment or self._predictor.repository.obstacle
        if found is None:
            self._started = True
        return found

    @property
    def not_started(self) -> str | None:
        """Why it was never ready; None: it has been."""
        return None if self._started else self.obstacle

    @property
    def hangs(self) -> bool:
        """Whether a thread is in a run that may never end."""
        return bool(self._predictor.lanes.lost)

    def check_open(self, path: str) -> None:
        """Take a request in.

        Raises:
            StoppingError: It is too late for it.
        """
        if self.refusing and path not in PROBES:
            raise StoppingError(
                "The service is stopping.", hint="Send the request again; another one takes it."
            )
