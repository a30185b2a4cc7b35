"""A stand-in for a scheduler: it says of every job what the test wants."""

from __future__ import annotations

from collections.abc import Sequence

from cefr_batch.errors import SchedulerError
from cefr_batch.schedulers import Job, JobGroup, Observation, Scheduler


class SaysLauncher(Scheduler[str]):
    """Gives ``answer`` for every job, and counts how often it is asked. It starts nothing."""

    scheme = "says"
    answer: Observation | None = None  # None: it cannot be reached
    asked = 0

    def observe(self, jobs: Sequence[Job]) -> dict[Job, Observation]:
        type(self).asked += 1
        if self.answer is None:
            raise SchedulerError("the scheduler does not answer")
        return dict.fromkeys(jobs, self.answer)

    def render(self, group: JobGroup) -> str:
        raise NotImplementedError

    describe = check = submit = cancel = backends = render  # type: ignore[assignment]
