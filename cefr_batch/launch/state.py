"""How runs are doing: what the store says of a run, joined with what its launcher says of its job."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from typing import Any

from cefr_batch import layout
from cefr_batch.errors import CefrBatchError, NotFound, StoreError, Unavailable, UsageError
from cefr_batch.launch import get_launcher
from cefr_batch.launch.base import Job, Observation, State
from cefr_batch.launch.submission import Submission, parse_time, read_submission
from cefr_batch.store.base import Store

HEARTBEAT_LOST_SECONDS = 60.0  # a job writes its status every two seconds
_READERS = 16  # runs are read at the same time: a store may be far away


@dataclass(frozen=True)
class RunState:
    """A run's state in one word, why, and how far its newest job has come (None: not known)."""

    run: str
    level: str | None
    state: State
    reason: str = ""
    settled: bool = False  # finished or never started: nothing changes unless the user does something
    stage: str | None = None
    step: int | None = None
    steps: int | None = None
    epoch: float | None = None
    loss: float | None = None
    eval_loss: float | None = None
    eta_seconds: float | None = None
    attempt: int | None = None
    updated_at: str | None = None
    submitted_at: str | None = None
    handle: str | None = None


@dataclass(frozen=True)
class Facts:
    """What the store says of a run. ``status`` is empty unless the newest submission's job wrote it."""

    run: str
    complete: bool = False
    submission: Submission | None = None
    status: Mapping[str, Any] = field(default_factory=dict)
    damage: str = ""  # why the rest cannot be relied on

    @property
    def cancelled(self) -> bool:
        return self.submission is not None and self.submission.cancelled_at is not None

    @property
    def where(self) -> str:
        """`` at stage train, step 40 of 290``, as far as it is known."""
        stage, step, steps = (self.status.get(key) for key in ("stage", "step", "steps"))
        if stage is None:
            return ""
        return f" at stage {stage}" + (f", step {step} of {steps}" if step is not None else "")

    @property
    def next_step(self) -> str:
        does = "goes on from the last checkpoint" if self.status else "starts it"
        return f"`cefr-batch resume {self.run}` {does}"


def run_states(store: Store, runs: Iterable[str]) -> list[RunState]:
    """The state of each of these runs, in their order. A run that cannot be read is UNKNOWN and says why."""
    with ThreadPoolExecutor(_READERS) as pool:
        found = list(pool.map(partial(_read, store), runs))
        observations = _observe([facts.submission for facts in found if facts.submission and not facts.complete])

        def state(facts: Facts) -> RunState:
            observation = observations.get(facts.submission.job) if facts.submission else None
            if not facts.complete and not facts.damage:
                facts = _with_last_words(store, facts, observation)
            return _joined(store, facts, *judge(facts, observation))

        return list(pool.map(state, found))


def last_output(store: Store, run: str) -> str:
    """The end of what the run's newest job printed, as far as its launcher has it here; else empty."""
    submission = read_submission(store, run)
    return _output(submission, store) if submission else ""


def judge(facts: Facts, observation: Observation | None) -> tuple[State, str]:
    """A run's state and the reason for it."""
    if facts.complete:
        return State.SUCCEEDED, ""
    if facts.damage:
        return State.UNKNOWN, facts.damage
    if facts.submission is None and not facts.status:
        return State.UNKNOWN, f"never started; {facts.next_step}"
    if observation is None or observation.state is State.UNKNOWN:
        return _unseen(facts, observation or Observation(State.UNKNOWN, "its submission was not recorded"))
    return _gone(facts, observation) if observation.state.finished else _alive(facts, observation)


def _alive(facts: Facts, observation: Observation) -> tuple[State, str]:
    if facts.cancelled:
        return observation.state, "asked to stop; it stores a checkpoint first"
    if not facts.status:
        return State.PENDING, observation.reason or "starting"
    return observation.state, observation.reason


def _gone(facts: Facts, observation: Observation) -> tuple[State, str]:
    said = facts.status.get("state")
    detail = f" ({observation.detail})" if observation.detail else ""
    if facts.cancelled:
        return State.CANCELLED, f"cancelled{facts.where or ' before it started'}; {facts.next_step}"
    if said == State.PREEMPTED and observation.state is not State.CANCELLED:
        stopped = f"stopped after a checkpoint{facts.where}{detail}"
        return State.PREEMPTED, f"{stopped}; `cefr-batch resume {facts.run}` goes on"
    if said == State.FAILED:
        return State.FAILED, str(facts.status.get("message") or "it gave no reason; its log may tell") + detail
    state = State.FAILED if observation.state is State.SUCCEEDED else observation.state
    what = observation.reason or f"its job ended as {observation.state} but left no result"
    return state, f"{what}{facts.where}; {facts.next_step}"


def _unseen(facts: Facts, observation: Observation) -> tuple[State, str]:
    """No launcher can tell. What the job said last counts: for good if it was its end, else while it is fresh."""
    said, why = facts.status.get("state"), observation.reason
    ended = said in (State.PREEMPTED, State.FAILED)
    if ended and not observation.forgotten and _may_go_on(facts):
        what = f"stopped after a checkpoint{facts.where}" if said == State.PREEMPTED else f"failed{facts.where}"
        return State.UNKNOWN, f"{why}; it {what}, and may have been started again"
    age = _age_seconds(facts.status["updated_at"]) if facts.status else float("inf")
    never = facts.cancelled and not facts.status  # a job that starts now finds the wish, and ends
    if ended or never or (observation.forgotten and age >= HEARTBEAT_LOST_SECONDS):
        return _gone(facts, replace(observation, state=State.FAILED))
    if not facts.status:
        return State.UNKNOWN, why
    host = facts.status.get("host")
    if age < HEARTBEAT_LOST_SECONDS:
        return State.RUNNING, f"on {host}"
    return State.UNKNOWN, f"{why}; its last sign of life, from {host}, is {age / 60:.0f} minutes old{facts.where}"


def _may_go_on(facts: Facts) -> bool:
    """Whether a job that said how it ended may have been started again by its scheduler."""
    if facts.submission is None or facts.cancelled:
        return False
    try:
        launcher = get_launcher(facts.submission.launcher)
    except UsageError:  # a place that this version does not know
        return True
    return launcher.requeues if facts.status["state"] == State.PREEMPTED else launcher.retries


def _read(store: Store, run: str) -> Facts:
    """All of a complete run; of another what has to be known to ask for its job."""
    try:
        complete_at = _complete_at(store, run)
        if complete_at is not None:
            return _read_complete(store, run, complete_at)
        return Facts(run, submission=read_submission(store, run))
    except StoreError as exc:
        return Facts(run, damage=str(exc))


def _with_last_words(store: Store, facts: Facts, observation: Observation | None) -> Facts:
    """What the job said last. Read after its launcher was asked: if it had ended by then, no more is to come."""
    run, submission = facts.run, facts.submission
    try:
        status = _read_status(store, run)
        if submission and status and parse_time(status["updated_at"]) < parse_time(submission.submitted_at):
            status = {}
        ended = observation is not None and observation.state.finished
        if ended and status.get("state") not in (State.PREEMPTED, State.FAILED):
            complete_at = _complete_at(store, run)
            if complete_at is not None:
                return _read_complete(store, run, complete_at)
        if not submission and not status:
            store.get_json(layout.run_key(run, layout.SPEC))
        return replace(facts, status=status)
    except StoreError as exc:
        return Facts(run, damage=str(exc))


def _complete_at(store: Store, run: str) -> str | None:
    """None if the run is not complete; empty if it is, and does not say since when."""
    try:
        manifest = store.get_json(layout.run_key(run, layout.MANIFEST))
    except NotFound:
        return None
    except Unavailable:
        raise
    except StoreError:
        return ""
    return str(manifest.get("complete_at", "")) if isinstance(manifest, dict) else ""


def _read_complete(store: Store, run: str, complete_at: str) -> Facts:
    """A complete run stays complete, whatever has become of its other records."""
    facts = Facts(run, complete=True)
    with suppress(StoreError):
        facts = replace(facts, submission=read_submission(store, run))
    try:
        return replace(facts, status={"updated_at": complete_at, **_figures(store, run)})
    except (StoreError, KeyError, TypeError):
        with suppress(StoreError):
            facts = replace(facts, status=_read_status(store, run))
    return facts


def _figures(store: Store, run: str) -> dict[str, Any]:
    """A complete run's figures, in the keys of a status: the final training loss and the best evaluation loss."""
    metrics = store.get_json(layout.run_key(run, layout.METRICS))
    train, best = metrics["train"], metrics["best"]
    figures = {"step": train["steps"], "steps": train["steps"], "epoch": train["epochs"], "loss": train["final_loss"]}
    figures |= {"stage": "publish", "eval_loss": best["eval_loss"], "attempt": metrics.get("attempts")}
    return figures


def _read_status(store: Store, run: str) -> Mapping[str, Any]:
    key = layout.run_key(run, layout.STATUS)
    try:
        status: Mapping[str, Any] = store.get_json(key)
        parse_time(status["updated_at"])
    except NotFound:
        return {}
    except (TypeError, KeyError, ValueError) as exc:
        raise StoreError(f"{store.locate(key)} is not a job's status; was it edited?") from exc
    return status


def _observe(submissions: Sequence[Submission]) -> dict[Job, Observation]:
    """One question per launcher, whichever site it used. A launcher that fails makes its jobs UNKNOWN."""
    observations: dict[Job, Observation] = {}
    for kind in dict.fromkeys(s.launcher for s in submissions):
        jobs = [s.job for s in submissions if s.launcher == kind]
        try:
            observations |= get_launcher(kind).observe(jobs)
        except CefrBatchError as exc:
            observations |= {job: Observation(State.UNKNOWN, str(exc)) for job in jobs}
    return observations


def _joined(store: Store, facts: Facts, state: State, reason: str) -> RunState:
    status, submission = facts.status, facts.submission
    if submission and state is State.FAILED and status.get("state") != State.FAILED:  # it died without a word
        output = _output(submission, store)
        reason += f"\nThe end of its output:\n{output}" if output else ""
    return RunState(
        run=facts.run,
        level=layout.run_level(facts.run),
        state=state,
        reason=reason,
        settled=state.finished or not (facts.damage or facts.submission or status),
        stage=status.get("stage"),
        step=status.get("step"),
        steps=status.get("steps"),
        epoch=status.get("epoch"),
        loss=status.get("loss"),
        eval_loss=status.get("eval_loss"),
        eta_seconds=status.get("eta_seconds") if state is State.RUNNING else None,
        attempt=status.get("attempt"),
        updated_at=status.get("updated_at"),
        submitted_at=submission.submitted_at if submission else None,
        handle=submission.handle if submission else None,
    )


def _output(submission: Submission, store: Store) -> str:
    try:
        return get_launcher(submission.cluster).last_output(submission.job, store.url)
    except CefrBatchError:  # its site is not known here
        return ""


def _age_seconds(text: str) -> float:
    return (datetime.now(timezone.utc) - parse_time(text)).total_seconds()
