"""From a spec to a started job: a name for the run, the record of its job, a request to stop it."""

from __future__ import annotations

import getpass
import os
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from cefr_batch import __version__, layout
from cefr_batch.errors import AlreadyExists, LaunchError, NotFound, StoreError
from cefr_batch.launch.base import Job, JobOrder, Launcher
from cefr_batch.store.base import Store

if TYPE_CHECKING:
    from cefr_batch.levels import RunSpec


@dataclass(frozen=True)
class Submission:
    """``submission.json``: who started a run's newest job, when and where."""

    run: str
    cluster: str
    handle: str
    submitted_at: str
    submitted_by: str
    cancelled_at: str | None = None

    @property
    def job(self) -> Job:
        return Job(self.run, self.handle)


def now() -> str:
    """The time as every record has it: UTC, ISO 8601, whole seconds."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def parse_time(text: str) -> datetime:
    """A record's time. Raises ``ValueError`` or ``TypeError`` if it is none."""
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=timezone.utc)


def next_run(store: Store, spec: RunSpec) -> str:
    """The name that a run of this spec would get now."""
    names = store.folders(f"{layout.RUNS}/")
    taken = [layout.run_version(name) for name in names if name.startswith(f"{spec.run_family}-v")]
    return f"{spec.run_family}-v{max(taken, default=0) + 1}"


def claim(store: Store, spec: RunSpec, dataset: str) -> str:
    """Write ``spec.json`` under the next free name, which is then this submitter's alone; return the name."""
    while True:
        run = next_run(store, spec)
        record = {
            "run": run,
            "dataset": dataset,
            "spec": spec.model_dump(mode="json"),
            "code_version": __version__,
            "submitted_at": now(),
        }
        try:
            store.put_json(layout.run_key(run, layout.SPEC), record, if_absent=True)
        except AlreadyExists:
            continue
        return run


def unclaim(store: Store, run: str) -> None:
    """Give back the name of a run whose job was never started."""
    store.delete(layout.run_key(run, layout.SPEC))


def start(store: Store, launcher: Launcher[Any], run: str) -> Submission:
    """Start a claimed run's job and record it. Raises ``LaunchError``; then nothing runs and nothing is recorded."""
    submitted_at = now()  # before the start: the job's own records are never older
    handle = launcher.submit(launcher.render(JobOrder(run, store.url)))
    submission = Submission(run, launcher.scheme, handle, submitted_at, _user())
    try:
        _write(store, submission)
    except StoreError:
        launcher.cancel(submission.job)
        raise
    return submission


def cancel(store: Store, submission: Submission, launcher: Launcher[Any]) -> None:
    """Record the wish to stop, then ask the job. Does not wait; may be repeated."""
    _write(store, replace(submission, cancelled_at=submission.cancelled_at or now()))
    try:
        launcher.cancel(submission.job)
    except LaunchError:
        _write(store, submission)
        raise


def read_submission(store: Store, run: str) -> Submission | None:
    """A run's submission; None if its job was never started. Raises ``StoreError`` if the record is damaged."""
    key = layout.run_key(run, layout.SUBMISSION)
    try:
        record = store.get_json(key)
    except NotFound:
        return None
    try:
        parse_time(record["submitted_at"])
        texts = {name: str(record[name]) for name in ("cluster", "handle", "submitted_at", "submitted_by")}
        return Submission(run=run, cancelled_at=record.get("cancelled_at"), **texts)
    except (TypeError, KeyError, ValueError) as exc:
        raise StoreError(f"{store.locate(key)} is not the record of a submission; was it edited?") from exc


def _write(store: Store, submission: Submission) -> None:
    store.put_json(layout.run_key(submission.run, layout.SUBMISSION), asdict(submission))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())
