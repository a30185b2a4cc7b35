"""From specs to started jobs: names for the runs, records of their jobs, a request to stop them."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from cefr_batch import __version__, layout
from cefr_batch.errors import AlreadyExists, LaunchError, NotFound, StoreError
from cefr_batch.launch.base import Batch, Job, Launcher
from cefr_batch.store.base import Store

if TYPE_CHECKING:
    from cefr_batch.levels import RunSpec


_WRITERS = 16  # records are written at the same time: a store may be far away


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

    @property
    def launcher(self) -> str:
        """The launcher alone, without the site: ``slurm`` of ``slurm/NAME``."""
        return self.cluster.partition("/")[0]


def now() -> str:
    """The time as every record has it: UTC, ISO 8601, whole seconds."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def parse_time(text: str) -> datetime:
    """A record's time. Raises ``ValueError`` or ``TypeError`` if it is none."""
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=timezone.utc)


def next_runs(store: Store, specs: Sequence[RunSpec]) -> list[str]:
    """The names that runs of these specs would get now."""
    names = store.folders(f"{layout.RUNS}/")
    newest: dict[str, int] = {}
    free = []
    for family in (spec.run_family for spec in specs):
        if family not in newest:
            taken = [layout.run_version(name) for name in names if name.startswith(f"{family}-v")]
            newest[family] = max(taken, default=0)
        newest[family] += 1
        free.append(f"{family}-v{newest[family]}")
    return free


def claim(store: Store, wanted: Sequence[tuple[RunSpec, str]]) -> list[str]:
    """Write ``spec.json`` of each spec and dataset under the next free name, which is then this submitter's alone.

    Returns the names in order. If one cannot be written, none stays claimed.
    """
    names: dict[int, str] = {}
    with ThreadPoolExecutor(_WRITERS) as pool:
        while left := [number for number in range(len(wanted)) if number not in names]:
            free = next_runs(store, [wanted[number][0] for number in left])
            tries = [pool.submit(claim_as, store, run, *wanted[n]) for n, run in zip(left, free, strict=True)]
            wait(tries)
            ours = [
                (n, run) for n, run, one in zip(left, free, tries, strict=True) if not one.exception() and one.result()
            ]
            names |= dict(ours)
            if failure := next((one.exception() for one in tries if one.exception()), None):
                unclaim(store, names.values())
                raise failure
    return [names[number] for number in range(len(wanted))]


def claim_as(store: Store, run: str, spec: RunSpec, dataset: str) -> bool:
    """Write ``spec.json`` under this name. False, and nothing is written, if the name is taken."""
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
        return False
    return True


def unclaim(store: Store, runs: Iterable[str]) -> None:
    """Give back the names of runs whose jobs were never started."""
    for run in runs:
        store.delete(layout.run_key(run, layout.SPEC))


def start(store: Store, launcher: Launcher[Any], batch: Batch) -> list[Submission]:
    """Start claimed runs' jobs and record them. Raises ``LaunchError`` if one cannot be started or recorded; then none
    goes on."""
    submitted_at = now()  # before the start: the jobs' own records are never older
    handles = launcher.submit(launcher.render(batch))
    user = _user()
    submissions = [
        Submission(order.run, launcher.name, handle, submitted_at, user)
        for order, handle in zip(batch.orders, handles, strict=False)  # the report's comes last, and is not a run's
    ]
    try:
        _write(store, submissions)
    except StoreError:
        launcher.cancel([submission.job for submission in submissions])
        raise
    return submissions


def cancel(store: Store, submissions: Sequence[Submission], launcher: Launcher[Any]) -> None:
    """Record the wish to stop, then ask the jobs, which are all of this launcher. Does not wait; may be repeated."""
    _write(store, [replace(one, cancelled_at=one.cancelled_at or now()) for one in submissions])
    try:
        launcher.cancel([one.job for one in submissions])
    except LaunchError:
        _write(store, submissions)
        raise


def forget_cancel(store: Store, runs: Iterable[str]) -> None:
    """Before runs are started again: a job that starts at once must not find the old wish to stop."""
    found = [one for run in runs if (one := read_submission(store, run)) and one.cancelled_at]
    _write(store, [replace(one, cancelled_at=None) for one in found])


def read_spec(store: Store, run: str) -> RunSpec:
    """A run's settings. Raises ``StoreError`` if they cannot be read, ``SpecError`` if they are none."""
    from cefr_batch.spec import recorded_spec  # late: not every command needs the settings library

    key = layout.run_key(run, layout.SPEC)
    return recorded_spec(store.get_json(key), store.locate(key))


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


def _write(store: Store, submissions: Iterable[Submission]) -> None:
    with ThreadPoolExecutor(_WRITERS) as pool:
        keys = ((layout.run_key(one.run, layout.SUBMISSION), asdict(one)) for one in submissions)
        list(pool.map(lambda item: store.put_json(*item), keys))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())
