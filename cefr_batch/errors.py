"""Every error that cefr-batch raises on purpose.

::

    CefrBatchError            exit 1   what happened, and the next step
    ├── UsageError            exit 2   a command that cannot be carried out as typed
    │   └── SpecError         exit 2   a job, site or profile file, or a --set, that cannot run
    ├── DataError             exit 1   training data that cannot be used
    ├── RatingError           exit 1   ratings, or runs to be rated, that cannot be used
    ├── ModelError            exit 1   a pretrained model that cannot be loaded or downloaded
    │   └── ModelUnavailable           it cannot be downloaded now; later it may work
    │   └── ChatTemplateError          its chat template cannot be used
    │       └── NoChatTemplate         it has none
    ├── ExportError           exit 1   a model that cannot be exported, or was exported wrongly
    ├── StoreError            exit 1   the store failed
    │   ├── NotFound                   no such object or run
    │   ├── AlreadyExists              a conditional write lost the race
    │   ├── AccessDenied               the credentials do not allow it
    │   ├── Damaged                    an object is not what was written
    │   ├── Unavailable                the store cannot be reached or is overloaded; later it may work
    │   │   ├── CredentialsError           missing, wrong or expired credentials; others may be there later
    │   │   └── StoreFull                  no space is left; somebody may free some
    │   └── LeaseLost                  a newer attempt of the run has taken over
    ├── SchedulerError        exit 1   the cluster failed
    │   └── JobsMayRun                 jobs that were started are neither recorded nor stopped
    ├── WaitTimeout           exit 1   runs whose state was unknown for so long that waiting stopped
    ├── NotReady              exit 1   runs that cannot be started, with every reason (exit 2 if one is of usage)
    ├── MachineError          exit 1   a machine that cannot do the job it was given; another one may
    ├── JobFailed             exit 1   a stage of a job failed
    ├── OutOfMemory           exit 1   a step of training did not fit; the job retries with smaller batches
    ├── Interrupted           exit 75  stopped on request; what was computed is stored
    └── Paused                         training stopped after the step that was asked for; and the job ends well

``cli.main`` is the one place that turns them into a message and an exit code. A job (``run-job``) exits with 2 where an
error is permanent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

EXIT_INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: not finished, worth starting again


class CefrBatchError(Exception):
    """A clear message for the user: what happened, and what to do next. ``exit_code`` is the process's.

    ``permanent``: the same job would fail again in the same way; it exits with 2, on which no scheduler starts it again.
    """

    exit_code = 1
    permanent = False


class UsageError(CefrBatchError):
    """A command that cannot be carried out as typed."""

    exit_code = 2
    permanent = True


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
    """Settings that cannot run, every problem with the file or option that gave it."""

    heading = "{n} problems in the settings"


class DataError(_WithProblems):
    """Training data that cannot be used."""

    heading = "{n} problems in the training data"
    permanent = True


class RatingError(_WithProblems):
    """Ratings, or runs to be rated, that cannot be used."""

    heading = "{n} problems, nothing was stored"


class NotReady(_WithProblems):
    """Runs that cannot be started, with every reason."""

    heading = "{n} problems, nothing was started"

    def __init__(self, problems: Iterable[Problem], exit_code: int) -> None:
        super().__init__(problems)
        self.exit_code = exit_code


class MachineError(_WithProblems):
    """A machine that cannot do the job it was given; another one may."""

    heading = "{n} problems with this machine"


class ModelError(CefrBatchError):
    """A pretrained model that cannot be loaded or downloaded."""

    permanent = True


class ModelUnavailable(ModelError):
    """A model that cannot be downloaded now: retry later."""

    permanent = False


class ChatTemplateError(ModelError):
    """A model's chat template cannot be used."""


class NoChatTemplate(ChatTemplateError):
    """A model has no chat template."""


class ExportError(CefrBatchError):
    """A model cannot be exported, or what was exported is not the model that was trained."""


class StoreError(CefrBatchError):
    """The store failed."""


class NotFound(StoreError):
    """No such object or run."""

    permanent = True


class AlreadyExists(StoreError):
    """A conditional write found an object that is there already."""


class AccessDenied(StoreError):
    """The credentials do not allow it."""


class Damaged(StoreError):
    """An object is not what was written."""


class Unavailable(StoreError):
    """The store cannot be reached or is overloaded: retry later."""


class CredentialsError(Unavailable):
    """Credentials cannot be had now, or were refused: retry later, they may be renewed."""


class StoreFull(Unavailable):
    """No space is left in the store: retry later, somebody may free some."""


class LeaseLost(StoreError):
    """A newer attempt of the run has taken over; this one writes no more."""


class SchedulerError(CefrBatchError):
    """The scheduler failed or refused."""


class JobsMayRun(SchedulerError):
    """Jobs may run that could neither be recorded nor stopped; the message names them."""


class WaitTimeout(CefrBatchError):
    """The state of runs that were waited for stayed unknown for too long."""


class JobFailed(CefrBatchError):
    """A stage of a job failed."""

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent


class OutOfMemory(CefrBatchError):
    """A step of training did not fit on the GPU; the job retries with smaller batches."""


class Interrupted(CefrBatchError):
    """Stopped on request; what was computed is stored."""

    exit_code = EXIT_INTERRUPTED


class Paused(CefrBatchError):
    """Training stopped after the step that was asked for. No failure: its job ends well, and whoever asked goes on from the
    checkpoint."""


def cut_short(text: str, longest: int) -> str:
    """A value as a message shows it: no more than so many of its characters."""
    return text if len(text) <= longest else f"{text[:longest]}…"
