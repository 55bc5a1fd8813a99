"""Engine that computes one job at a time in the worker process itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from cdi_stream.refine.compute import compute
from cdi_stream.refine.engine import EngineSettings, Outcome, Task
from cdi_stream.refine.turn import Turn, WorkerStopped


class LocalEngine:
    """Computes in the worker process; `outcomes` returns when the job has ended."""

    is_elsewhere = False

    def __init__(self, settings: EngineSettings) -> None:
        self._turn = Turn(settings.directory, settings.is_stopped)
        self._task: Task | None = None

    def n_free(self) -> int:
        """Return 1 if there is no task, else 0."""
        return 1 if self._task is None else 0

    def submit(self, task: Task) -> None:
        """Take a task; it is computed by `outcomes`."""
        self._task = task

    def outcomes(self, is_wanted: Callable[[int], bool], wait_s: float) -> Iterator[Outcome]:
        """Compute the task, with a pause before each step while a curve is urgent, and yield its outcome."""
        if self._task is None:
            return
        task, self._task = self._task, None

        def require() -> None:
            """Raise `WorkerStopped` if the job is not wanted any more."""
            if not is_wanted(task.job_id):
                raise WorkerStopped

        yield compute(task, lambda: self._turn.wait(require))

    def close(self) -> None:
        """Close the lock."""
        self._turn.close()
