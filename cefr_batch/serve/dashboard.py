"""What the pages about runs show, read from the store; nothing is written."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from cefr_batch.errors import CefrBatchError, NotFound, StoreError
from cefr_batch.i18n.language import N_
from cefr_batch.records import layout
from cefr_batch.records.document import Settings
from cefr_batch.records.metrics import Metrics
from cefr_batch.records.spec import SpecRecord
from cefr_batch.records.training import BestCheckpoint, LogEntry, logged_entries
from cefr_batch.report.curves import Training
from cefr_batch.runner import RunState, Session, State
from cefr_batch.runner.logs import log_attempts, log_end
from cefr_batch.runner.submission import read_dataset_name
from cefr_batch.store.base import Store

log = logging.getLogger(__name__)

T = TypeVar("T")

SHOWN_LOG = 60_000  # bytes of a log's end, on the page
_READ_LOG = 2_000_000  # bytes of each attempt's log, for the curves

STATES: dict[State, str] = {
    State.PENDING: N_("waiting"),
    State.RUNNING: N_("running"),
    State.PREEMPTED: N_("stopped"),
    State.PAUSED: N_("paused"),
    State.SUCCEEDED: N_("complete"),
    State.FAILED: N_("failed"),
    State.CANCELLED: N_("cancelled"),
    State.UNKNOWN: N_("unknown"),
}
STAGES = {
    "data": N_("preparing the data"),
    "baseline": N_("measuring the untrained model"),
    "train": N_("training"),
    "tuned": N_("measuring the trained model"),
    "generate": N_("writing sentences"),
    "merge": N_("merging adapter and model"),
    "plots": N_("drawing the plots"),
    "export": N_("exporting the model"),
    "publish": N_("storing the results"),
}


@dataclass(frozen=True)
class Filter:
    """Which runs are listed: of this level, in this state, with this text in their name; empty: all."""

    level: str = ""
    state: str = ""
    text: str = ""

    def takes(self, state: RunState) -> bool:
        """Whether a run is listed."""
        return (
            self.level in ("", state.level)
            and self.state in ("", state.state.value)
            and self.text.casefold().strip() in state.run
        )


def list_runs(session: Session) -> list[RunState]:
    """All runs of the store, the newest first. Blocks on the store, and on the schedulers of runs that have not ended."""
    return sorted(session.status(), key=lambda state: (state.submitted_at or "", state.run), reverse=True)


@dataclass(frozen=True)
class Curves:
    """The curves of a run that has no figures yet."""

    log: Sequence[LogEntry]
    best: BestCheckpoint | None = None


@dataclass(frozen=True)
class RunDetails:
    """A run, as far as it can be read; ``problems``: what could not, and why."""

    state: RunState
    settings: Settings | None
    metrics: Metrics | None
    curves: Training | None
    attempts: list[int]
    attempt: int | None
    log: str
    problems: list[str] = field(default_factory=list)


def run_details(session: Session, run: str, attempt: int | None = None) -> RunDetails:
    """Everything about one run, with the log of an attempt, by default the newest. Blocks on the store; whatever is
    damaged becomes a problem that is told. Raises ``NotFound`` for a run or an attempt that is not there."""
    if run not in session.runs():
        raise NotFound(f"there is no run of that name in {session.store.url}")
    store, problems = session.store, list[str]()

    def read(what: Callable[[], T]) -> T | None:
        try:
            return what()
        except NotFound:
            return None
        except CefrBatchError as exc:
            problems.append(str(exc))
            return None

    (state,) = session.status([run])
    record = read(lambda: store.get_record(layout.run_key(run, layout.SPEC), SpecRecord))
    metrics = read(lambda: store.get_record(layout.run_key(run, layout.METRICS), Metrics))
    attempts = read(lambda: log_attempts(store, run)) or []
    if attempt is not None and attempt not in attempts:
        raise NotFound(f"{run} has no log of attempt {attempt}")
    shown = attempt or (attempts[-1] if attempts else None)
    return RunDetails(
        state=state,
        settings=record.spec if record else None,
        metrics=metrics,
        curves=metrics or read(lambda: _curves_so_far(store, run, attempts)),
        attempts=attempts,
        attempt=shown,
        log=(read(lambda: log_end(store, run, shown, SHOWN_LOG)) if shown else None) or "",
        problems=problems,
    )


def _curves_so_far(store: Store, run: str, attempts: Sequence[int]) -> Curves:
    """From the jobs' logs: an attempt that resumed shows its steps anew, and what it shows counts."""
    entries: list[LogEntry] = []
    with ThreadPoolExecutor(4) as pool:
        for text in pool.map(lambda attempt: log_end(store, run, attempt, _READ_LOG), attempts):
            found = logged_entries(text)
            if found:
                entries = [entry for entry in entries if entry.step < found[0].step] + found
    return Curves(entries)


def evaluation_words(store: Store, run: str) -> list[list[str]]:
    """The words of each evaluation example of a run; empty where they cannot be read, or list no words."""
    from cefr_batch.data.examples import from_list_format, words_in

    try:
        dataset = read_dataset_name(store, run)
        examples = from_list_format(store.get(layout.dataset_key(dataset, layout.EVAL_FILE)))
    except NotFound:
        return []
    except (StoreError, ValueError) as exc:
        log.warning("the evaluation examples of %s cannot be read: %s", run, exc)
        return []
    return [words for example in examples if (words := words_in(example))]
