"""``Session``: everything that can be done with the runs of one store."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cefr_batch.errors import SpecError
from cefr_batch.records import layout
from cefr_batch.records.evaluations import SetEvaluation
from cefr_batch.records.submission import Submission
from cefr_batch.runner.artifacts import (
    Artifacts,
    Progress,
    Verification,
    finished_artifacts,
    no_progress,
    select_artifacts,
    verify_run,
)
from cefr_batch.runner.cancel import Cancellation, cancel_runs
from cefr_batch.runner.clock import Clock
from cefr_batch.runner.evaluations import evaluation_states, evaluation_submission, read_evaluations
from cefr_batch.runner.launch import Launch, Request, launch, preview, render
from cefr_batch.runner.logs import LogUpdate, follow_log, log_attempts, read_log
from cefr_batch.runner.prune import PruneRules, Removal, find_removals, remove
from cefr_batch.runner.resume import resume_runs
from cefr_batch.runner.selection import all_runs, find_runs, parse_levels
from cefr_batch.runner.status import RunState, run_states, tail_log
from cefr_batch.runner.submission import read_submission
from cefr_batch.runner.wait import wait_until_ended, watch_states
from cefr_batch.schedulers import Check, Scheduler, State, get_scheduler
from cefr_batch.schedulers.base import QUEUED_SECONDS
from cefr_batch.store import DEFAULT_STORE, Store, open_store

if TYPE_CHECKING:
    from cefr_batch.config.schema import RunSpec
    from cefr_batch.runner.evaluate import PreparedEvaluations
    from cefr_batch.runner.plan import RunPlan
    from cefr_batch.runner.prepare import Preparation
    from cefr_batch.runner.search_prepare import PreparedSearch, SearchRequest
    from cefr_batch.runner.study import StudyState


class Session:
    """The runs of one store, from any machine that can reach it. Holds no state of its own beside the store.

    ``cluster`` is a name as ``--cluster`` takes it (``local``, ``slurm/NAME``, ``k8s/NAME``) or a scheduler; ``runs``
    are run names. Every method may block on the store or a scheduler, and raises an error of ``cefr_batch.errors`` with
    one clear message: ``StoreError`` and ``SchedulerError`` where these fail, others as its docstring says. Warnings go
    to the logger ``cefr_batch.runner``.
    """

    poll_seconds: float = 1.0  # between two looks at the runs that are waited for
    search_seconds: float = 5.0  # between two looks at a study
    unknown_seconds: float = 600.0  # for how long a run that is waited for may be UNKNOWN

    def __init__(self, store: str | Store = DEFAULT_STORE, *, clock: Clock | None = None) -> None:
        """``store``: a folder, a ``file://`` or ``s3://`` address, or an opened store. Raises ``UsageError`` for
        another.
        """
        self.store = open_store(store) if isinstance(store, str) else store
        self.clock = clock or Clock()
        self._find_scheduler = cache(get_scheduler)  # schedulers keep connections, and limit how often they ask

    # Before anything starts.

    def check(
        self, cluster: str | Scheduler[Any] = "local", backend: str | None = None, *, specs: Sequence[RunSpec] = ()
    ) -> list[Check]:
        """Whether jobs can run at the cluster and write to the store: one check after the other, good and bad.

        ``specs``: settings of runs (``config.load.load_spec``), whose data, model and, on this machine, disk and memory are
        checked, too. ``backend``: of training, ``unsloth`` or ``peft``; by default that of ``specs`` or, without any, what
        the cluster prefers.
        """
        from cefr_batch.runner.doctor import check_runs
        from cefr_batch.runner.prepare import check_store, settle_backends

        scheduler = _scheduler(cluster)
        if backend:
            backends = [backend]
        elif specs:
            backends = list(dict.fromkeys(spec.backend for spec in settle_backends(specs, scheduler)))
        else:
            backends = list(scheduler.backends())[:1] or ["peft"]
        found = [*scheduler.check(backends, self.store.url), check_store(self.store)]
        return [*_setting_checks(scheduler), *found, *check_runs(specs, scheduler)]

    def plan(
        self,
        levels: Sequence[str],
        *,
        cluster: str | Scheduler[Any] = "local",
        profile: str | None = None,
        overrides: Sequence[str] = (),
        gpu: str | None = None,
        price_per_hour: float | None = None,
    ) -> list[RunPlan]:
        """What each run that ``submit`` would start would do: steps, tokens; where the GPU is known memory, time, cost.

        ``gpu`` and ``price_per_hour`` (of one GPU) default to the cluster's. Starts nothing; may download a tokenizer.
        """
        from cefr_batch.runner.plan import plan_runs

        return plan_runs(
            parse_levels(levels),
            profile=profile,
            overrides=overrides,
            scheduler=_scheduler(cluster),
            gpu=gpu,
            price_per_hour=price_per_hour,
        )

    def prepare(
        self,
        levels: Sequence[str],
        *,
        cluster: str | Scheduler[Any] = "local",
        profile: str | None = None,
        overrides: Sequence[str] = (),
        force: bool = False,
        dry_run: bool = False,
        ask_scheduler: bool = True,
        cross_evaluate: bool = False,
    ) -> Preparation:
        """Check everything that runs of these levels need, for ``launch``, ``preview`` or ``render``. Writes nothing.

        With ``cross_evaluate`` each run's job, once the run is complete, evaluates its model on the evaluation sets of the
        others. ``overrides`` are settings as ``--set`` takes them; a range such as ``training.seed=1..5`` makes a run for
        each value. Raises ``NotReady`` with every problem. What would only be unwise is logged as a warning; with ``force``
        this includes every check that is an opinion (``Check.opinion``), such as what does not fit on the cluster's GPU,
        with ``dry_run`` an unreachable cluster or store.
        """
        from cefr_batch.runner.findings import Findings
        from cefr_batch.runner.prepare import prepare, read_specs

        found = Findings()
        return prepare(
            read_specs(parse_levels(levels), profile, overrides, found),
            scheduler=_scheduler(cluster),
            store=self.store,
            dry_run=dry_run,
            force=force,
            ask_scheduler=ask_scheduler,
            cross_evaluate=cross_evaluate,
            findings=found,
        )

    def preview(self, preparation: Preparation) -> Request:
        """What ``launch`` would send to the scheduler, as text. Writes nothing."""
        return preview(self.store, preparation)

    # Start, stop, start again.

    def submit(
        self,
        levels: Sequence[str],
        *,
        cluster: str | Scheduler[Any] = "local",
        profile: str | None = None,
        overrides: Sequence[str] = (),
        force: bool = False,
        cross_evaluate: bool = False,
    ) -> list[str]:
        """Check everything, start a run for each level, and return the runs' names: ``prepare`` and ``launch`` in one.

        Blocks until the jobs are submitted, not until they end; they outlive this process. Not idempotent: each call
        makes new runs. All start or none does.
        """
        preparation = self.prepare(
            levels,
            cluster=cluster,
            profile=profile,
            overrides=overrides,
            force=force,
            cross_evaluate=cross_evaluate,
        )
        return self.launch(preparation).runs

    def launch(self, preparation: Preparation) -> Launch:
        """Start what was prepared. Not idempotent. If it fails or is interrupted, jobs that were started are stopped
        again; ``JobsMayRun`` names those that could not be.
        """
        return launch(self.store, preparation)

    def render(self, preparation: Preparation) -> Request:
        """What starts these runs, as text for somebody else to send. Claims their names; stores settings and data."""
        return render(self.store, preparation)

    def render_unclaimed(
        self,
        levels: Sequence[str],
        *,
        cluster: str | Scheduler[Any] = "local",
        profile: str | None = None,
        overrides: Sequence[str] = (),
    ) -> Request:
        """As ``render``, for jobs that claim their runs themselves: asks neither the store nor the cluster, and gives the
        same text each time. Raises ``NotReady`` with every problem that the settings show.
        """
        from cefr_batch.runner.unclaimed import render_unclaimed

        there = _scheduler(cluster)
        return render_unclaimed(self.store, parse_levels(levels), profile=profile, overrides=overrides, scheduler=there)

    def begin(self, run: str, spec: RunSpec) -> None:
        """Check and claim a run under this name, for a job that nobody submitted. Idempotent while the settings are the
        same; ``UsageError`` if the store has the run with others.
        """
        from cefr_batch.runner.unclaimed import begin

        begin(self.store, run, spec)

    def cancel(self, runs: Sequence[str]) -> list[Cancellation]:
        """Ask runs to store a checkpoint and stop. Does not wait for it; idempotent."""
        return cancel_runs(self.store, runs)

    def resume(
        self, runs: Sequence[str], *, cluster: str | Scheduler[Any] | None = None, force: bool = False
    ) -> list[Submission]:
        """Start stopped runs again from their last checkpoint, where they ran or at ``cluster``. Raises ``NotReady`` with
        every reason if one is active or complete, and then starts none. ``force``: even where an old job may still run
        unseen.
        """
        there = None if cluster is None else _scheduler(cluster)
        return resume_runs(self.store, runs, cluster=there, force=force)

    # Search for settings.

    def prepare_search(
        self, request: SearchRequest, *, cluster: str | Scheduler[Any] = "local", force: bool = False
    ) -> PreparedSearch:
        """Check everything that a search needs. Writes nothing. Raises as ``prepare`` does, and ``UsageError`` where there
        is nothing to search."""
        from cefr_batch.runner.search_prepare import prepare_search

        return prepare_search(self.store, request, _scheduler(cluster), force=force)

    def start_search(self, prepared: PreparedSearch) -> str:
        """Record the study and return its name. Starts no job: ``advance_search`` does. Not idempotent."""
        from cefr_batch.runner.search_prepare import create_study

        return create_study(self.store, prepared).study

    def advance_search(self, study: str, *, again: bool = False) -> StudyState:
        """Start what can be started now, and return the study as it is then. Does not wait; idempotent, on any machine.
        ``again``: also resume trials that were cancelled, or whose jobs ended before they began."""
        from cefr_batch.runner.search import advance

        return advance(self.store, study, self._find_scheduler, again=again)

    def watch_search(self, study: str, *, again: bool = False) -> Iterator[StudyState]:
        """``advance_search`` every ``search_seconds`` until the study ends. Leaving the loop stops no job, and nothing is
        lost. Raises ``WaitTimeout`` where nothing is known of its trials for ``unknown_seconds``."""
        from cefr_batch.runner.search import watch_study

        return watch_study(
            lambda first: self.advance_search(study, again=again and first),
            poll_seconds=self.search_seconds,
            unknown_seconds=self.unknown_seconds,
            clock=self.clock,
        )

    def study(self, study: str) -> StudyState:
        """A study as it is now. Starts nothing. Raises ``NotFound``."""
        from cefr_batch.runner.search import look

        return look(self.store, study, self._find_scheduler)

    # Evaluate complete runs on other sets.

    def evaluate(
        self,
        runs: Sequence[str],
        on: Sequence[str],
        *,
        cluster: str | Scheduler[Any] = "local",
        base: bool = False,
        examples: int | None = None,
    ) -> list[str]:
        """Check everything, start a job for each of these complete runs that evaluates its model on other sets, and return
        the runs that have one: ``prepare_evaluations`` and ``launch_evaluations`` in one.

        ``on``: levels, ``all``, and files in list format; ``base``: the base models too; ``examples``: at most so many of
        each set. Idempotent: what is stored is not computed again. Blocks until the jobs are submitted;
        ``wait_for_evaluations`` waits for their end, ``evaluations`` gives the results.
        """
        prepared = self.prepare_evaluations(runs, on, cluster=cluster, base=base, examples=examples)
        return [one.run for one in self.launch_evaluations(prepared)]

    def prepare_evaluations(
        self,
        runs: Sequence[str],
        on: Sequence[str],
        *,
        cluster: str | Scheduler[Any] = "local",
        base: bool = False,
        examples: int | None = None,
    ) -> PreparedEvaluations:
        """Check everything that these evaluations need; writes nothing. Raises ``NotReady`` with every problem."""
        from cefr_batch.runner.evaluate import prepare_evaluations

        return prepare_evaluations(self.store, runs, on, scheduler=_scheduler(cluster), base=base, examples=examples)

    def preview_evaluations(self, prepared: PreparedEvaluations) -> Request:
        """What ``launch_evaluations`` would send to the scheduler, as text; of no runs if everything is stored."""
        from cefr_batch.runner.evaluate import job_group

        group = job_group(self.store, prepared)
        if group is None:
            return Request([], "")
        text = prepared.scheduler.describe(prepared.scheduler.render(group))
        return Request([job.run for job in group.jobs], text)

    def launch_evaluations(self, prepared: PreparedEvaluations) -> list[Submission]:
        """Record what is asked and start the jobs; none for a run of which everything is stored."""
        from cefr_batch.runner.evaluate import launch_evaluations

        return launch_evaluations(self.store, prepared)

    def evaluations(self, run: str) -> list[SetEvaluation]:
        """The evaluations of a run that are stored. Raises ``StoreError`` for one that cannot be read."""
        return read_evaluations(self.store, run)

    def evaluation_states(self, runs: Sequence[str]) -> list[RunState]:
        """How far the evaluations of these runs are, in order: SUCCEEDED where nothing is open."""
        return evaluation_states(self.store, runs, self._find_scheduler)

    def watch_evaluations(self, runs: Sequence[str]) -> Iterator[list[RunState]]:
        """As ``watch``, for the evaluations of these runs."""
        return self._watch(lambda: self.evaluation_states(runs))

    def wait_for_evaluations(self, runs: Sequence[str]) -> list[RunState]:
        """Block until ``watch_evaluations`` ends and return the last states."""
        return deque(self.watch_evaluations(runs), maxlen=1).pop()

    # Look.

    def runs(self) -> list[str]:
        """The names of all runs, sorted."""
        return all_runs(self.store)

    def find(
        self,
        runs: Iterable[str] = (),
        levels: Iterable[str] = (),
        *,
        complete: bool = False,
        studies: bool = False,
    ) -> list[str]:
        """The runs named and each level's newest (``complete``: newest complete) one, each once; ``all`` is each level that
        has one. ``studies``: a study's name stands for the runs of its trials. Raises ``NotFound`` for what the store does
        not have, ``UsageError`` if nothing is named.
        """
        return find_runs(self.store, runs, levels, complete=complete, studies=studies)

    def status(self, runs: Iterable[str] | None = None) -> list[RunState]:
        """The state of each run, by default of all, in order. A run that cannot be read is UNKNOWN and says why."""
        return run_states(self.store, self.runs() if runs is None else runs, self._find_scheduler)

    def watch(self, runs: Sequence[str] | None = None) -> Iterator[list[RunState]]:
        """The states of these runs, by default of all, every ``poll_seconds``, until each has ended or was never
        started.

        Raises ``WaitTimeout`` in the end if a run stayed UNKNOWN for ``unknown_seconds``. Leaving the loop stops no
        job.
        """
        chosen = self.runs() if runs is None else runs
        return self._watch(lambda: self.status(chosen))

    def _watch(self, look: Callable[[], list[RunState]]) -> Iterator[list[RunState]]:
        return watch_states(
            look,
            poll_seconds=self.poll_seconds,
            unknown_seconds=self.unknown_seconds,
            clock=self.clock,
        )

    def wait(self, runs: Sequence[str] | None = None) -> list[RunState]:
        """Block until ``watch`` ends and return the last states. A run that failed is a state, not an error."""
        return deque(self.watch(runs), maxlen=1).pop()

    def wait_in_job(
        self, runs: Sequence[str], limit_seconds: float, *, queued_seconds: float = QUEUED_SECONDS
    ) -> list[str]:
        """Block until these runs and their evaluations have ended. For a job, which may not be able to ask a scheduler: of
        a run whose scheduler does not answer, the store alone tells; return those that had not ended within
        ``limit_seconds`` of their start, or had not started in ``queued_seconds``.
        """
        return wait_until_ended(
            self.store, runs, limit_seconds, look=self._look, queued_seconds=queued_seconds, clock=self.clock
        )

    def _look(self, runs: Sequence[str]) -> list[RunState]:
        """The state of each run and, of a complete one, that of its evaluations."""
        states = {one.run: one for one in self.status(runs)}
        complete = [run for run, one in states.items() if one.state is State.SUCCEEDED]
        states |= {one.run: one for one in self.evaluation_states(complete)}
        return list(states.values())

    def logs(self, run: str, attempt: int | None = None, *, evaluation: bool = False) -> str:
        """What the run's newest job (or this attempt, or the newest job that evaluates the run on other sets) has printed
        so far; empty if nothing. ``NotFound`` for an attempt without a log."""
        return "".join(self.log_pieces(run, attempt, evaluation=evaluation))

    def log_pieces(self, run: str, attempt: int | None = None, *, evaluation: bool = False) -> Iterator[str]:
        """As ``logs``, a piece at a time: a log may be larger than memory."""
        return read_log(self.store, run, attempt, _log_folder(evaluation))

    def log_attempts(self, run: str, *, evaluation: bool = False) -> list[int]:
        """The attempts of which there is a log, oldest first."""
        return log_attempts(self.store, run, _log_folder(evaluation))

    def follow(self, run: str, *, evaluation: bool = False) -> Iterator[LogUpdate]:
        """The run's log as it grows, from the newest attempt's beginning, an update every ``poll_seconds`` until the
        run, or with ``evaluation`` what evaluates it, ends.
        """
        look = self.evaluation_states if evaluation else self.status
        return follow_log(
            self.store,
            run,
            lambda: look([run])[0],
            poll_seconds=self.poll_seconds,
            clock=self.clock,
            folder=_log_folder(evaluation),
        )

    def scheduler_output(self, run: str, *, evaluation: bool = False) -> str:
        """The end of what the run's newest job (or the one that evaluates it) printed, where its scheduler keeps that on
        this machine; else empty."""
        submission = (evaluation_submission if evaluation else read_submission)(self.store, run)
        return tail_log(self.store, submission) if submission else ""

    # Artifacts.

    def artifacts(self, run: str, only: Sequence[str] = (), *, unfinished: bool = False) -> Artifacts:
        """The objects of a complete run, or of its parts named in ``only`` (adapter, merged, tensorboard, plots,
        report). ``unfinished``: of another run those parts that its finished stages left.
        """
        return (finished_artifacts if unfinished else select_artifacts)(self.store, run, only)

    def pull(
        self,
        run: str,
        to: str | Path = "pulled",
        only: Sequence[str] = (),
        progress: Progress = no_progress,
    ) -> Path:
        """Fetch a complete run, or parts of any that are finished, into a folder of its name in ``to``; return that folder.

        Idempotent: every file is checked against its SHA-256, and an interrupted pull continues where it stopped.
        """
        folder = Path(to) / run
        self.artifacts(run, only, unfinished=True).fetch(folder, progress)
        return folder

    def verify(self, run: str, progress: Progress = no_progress) -> Verification:
        """Compare every object of a complete run with its manifest. Reads all of it; writes nothing."""
        return verify_run(self.store, run, progress)

    def find_removals(self, rules: PruneRules) -> list[Removal]:
        """What the rules allow to remove. Removes nothing."""
        return find_removals(self.store, rules)

    def remove(self, removals: Sequence[Removal]) -> Iterator[tuple[Removal, str]]:
        """Remove it, run by run, each with why it was left alone (empty: it was removed): its state has changed since, or
        its manifest cannot be read."""
        return remove(self.store, removals)


def _log_folder(evaluation: bool) -> str:
    return layout.EVALUATION_LOGS if evaluation else layout.LOGS


def _scheduler(cluster: str | Scheduler[Any]) -> Scheduler[Any]:
    return get_scheduler(cluster) if isinstance(cluster, str) else cluster


def _setting_checks(scheduler: Scheduler[Any]) -> list[Check]:
    try:
        scheduler.require_settings()
    except SpecError as exc:
        return [Check("settings", str(problem)) for problem in exc.problems]
    return []
