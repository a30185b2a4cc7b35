"""Every error that cefr-batch raises on purpose.

::

    CefrBatchError            exit 1   one sentence, and the next step
    ├── UsageError            exit 2   a command that cannot be carried out as typed
    │   └── SpecError         exit 2   a job, site or profile file, or a --set, that cannot run
    ├── DataError             exit 1   training data that cannot be used
    ├── RatingError           exit 1   ratings, or runs to be rated, that cannot be used
    ├── ModelError            exit 1   a pretrained model that cannot be had
    ├── StoreError            exit 1   the store failed
    │   ├── NotFound                   no such object or run
    │   ├── AlreadyExists              a conditional write lost the race
    │   ├── AccessDenied               the credentials do not allow it
    │   ├── Damaged                    an object is not what was written
    │   ├── Unavailable                the store cannot be reached or is overloaded; later it may work
    │   └── LeaseLost                  a newer attempt of the run has taken over
    ├── LaunchError           exit 1   the place where jobs run failed
    ├── NotReady              exit 1   runs that cannot be started, with every reason (exit 2 if one is of usage)
    ├── MachineError          exit 1   a machine that cannot do the job it was given; another one may
    ├── JobFailed             exit 1   a stage of a job failed
    ├── OutOfMemory           exit 1   a step of training did not fit; the job goes on with smaller batches
    └── Interrupted           exit 75  stopped on request; what was computed is stored

``cli.main`` is the one place that turns them into a message and an exit code.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

EXIT_INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: not finished, worth starting again


class CefrBatchError(Exception):
    """One clear sentence for the user. ``exit_code`` is the process's."""

    exit_code = 1


class UsageError(CefrBatchError):
    exit_code = 2


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where it stands, what is wrong with it."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what


_SHOWN = 20


class _WithProblems(CefrBatchError):
    """An error that names every problem at once; its text stops after 20."""

    heading = "{n} problems"

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(str(self))

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return str(self.problems[0])
        lines = [f"  - {p}" for p in self.problems[:_SHOWN]]
        if len(self.problems) > _SHOWN:
            lines.append(f"  - and {len(self.problems) - _SHOWN} more")
        return "\n".join([f"{self.heading.format(n=len(self.problems))}:", *lines])


class SpecError(_WithProblems, UsageError):
    heading = "{n} problems in the settings"


class DataError(_WithProblems):
    heading = "{n} problems in the training data"


class RatingError(_WithProblems):
    heading = "{n} problems, nothing was stored"


class NotReady(_WithProblems):
    heading = "{n} problems, nothing was started"

    def __init__(self, problems: Iterable[Problem], exit_code: int) -> None:
        super().__init__(problems)
        self.exit_code = exit_code


class MachineError(_WithProblems):
    heading = "{n} problems with this machine"


class ModelError(CefrBatchError):
    pass


class StoreError(CefrBatchError):
    pass


class NotFound(StoreError):
    pass


class AlreadyExists(StoreError):
    pass


class AccessDenied(StoreError):
    pass


class Damaged(StoreError):
    pass


class Unavailable(StoreError):
    pass


class LeaseLost(StoreError):
    pass


class LaunchError(CefrBatchError):
    pass


class JobFailed(CefrBatchError):
    pass


class OutOfMemory(CefrBatchError):
    pass


class Interrupted(CefrBatchError):
    exit_code = EXIT_INTERRUPTED
