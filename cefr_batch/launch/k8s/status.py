"""What a Job, its pods and its events say, in our words beside Kubernetes' own. Pure.

Conditions are found by their type: their order means nothing, and newer servers have more of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from cefr_batch.errors import EXIT_INTERRUPTED, UsageError
from cefr_batch.launch.base import Observation, State
from cefr_batch.launch.k8s.client import Object
from cefr_batch.launch.k8s.manifest import JobName

_INDEX = "batch.kubernetes.io/job-completion-index"

# Kubernetes' words that need some of ours.
_JOB_FAILURES = {
    "BackoffLimitExceeded": "it failed more often than the site allows (max_restarts)",
    "DeadlineExceeded": "it came to its time limit; raise `time` in the site file",
    "PodFailurePolicy": "it would fail again in the same way, so it was not started again",
}
_WAITING = {
    "ErrImagePull": "its image cannot be pulled",
    "ImagePullBackOff": "its image cannot be pulled",
    "ErrImageNeverPull": "its image is not on the node, and the site says never to pull it",
    "InvalidImageName": "its image has a name that is none",
    "CreateContainerConfigError": "its container cannot be made",
    "CreateContainerError": "its container cannot be made",
    "CrashLoopBackOff": "its container ends again and again",
    "RunContainerError": "its container cannot be started",
}
_POD_FAILURES = {
    "Evicted": "its node had to give up something",
    "NodeLost": "its node was lost",
    "NodeShutdown": "its node was shut down",
    "Terminated": "its node was shut down",
    "Shutdown": "its node was shut down",
    "Preempting": "something more important took its place",
    "Preempted": "something more important took its place",
    "DeadlineExceeded": "it came to its time limit",
    "UnexpectedAdmissionError": "its node refused it",
}
_DISRUPTIONS = {
    "EvictionByEvictionAPI": "it was evicted",
    "PreemptionByScheduler": "something more important took its place",
    "DeletionByTaintManager": "its node was lost",
    "DeletionByPodGC": "its node was lost",
    "TerminationByKubelet": "its node had to give up something",
}
_EXIT_CODES = {
    EXIT_INTERRUPTED: "it stopped after a checkpoint",
    UsageError.exit_code: "it refused what it was told to do; trying again would not help",
    137: "it was killed (SIGKILL)",
    143: "it was stopped before it could begin (SIGTERM)",
}
_OF_A_JOB = ("FailedCreate", "FailedDelete", "InvalidPod")


def observe(name: JobName, job: Object | None, pods: Iterable[Object], warnings: Sequence[Object]) -> Observation:
    """What becomes of a job. ``job``: None if Kubernetes has none of this name; ``pods``: of this Job (of the index alone,
    if it has one); ``warnings``: the namespace's events of this type, the oldest first."""
    newest_first = sorted(pods, key=_started, reverse=True)
    if job is None:
        return _without_job(name, newest_first)
    if index_state := _index_state(job, name.index):
        return _ended(index_state, "", "", newest_first)
    conditions = conditions_of(job)
    if "Complete" in conditions:
        return _ended(State.SUCCEEDED, "", "", newest_first)
    if "Failed" in conditions:
        failed = conditions["Failed"]
        return _ended(State.FAILED, str(failed.get("reason", "")), str(failed.get("message", "")), newest_first)
    return _unfinished(job, conditions, newest_first, warnings)


def needs_events(job: Object | None, pods: Iterable[Object]) -> bool:
    """Whether events may say more: a job that should run, and does not."""
    if job is None or {"Complete", "Failed"} & set(conditions_of(job)):
        return False
    return not any(_phase(pod) == "Running" for pod in pods)


def finished(job: Object) -> bool:
    """Whether nothing more comes of a Job by itself."""
    return bool({"Complete", "Failed"} & set(conditions_of(job)))


def conditions_of(thing: Object) -> dict[str, Object]:
    """Those that are true, by type."""
    found = (thing.get("status") or {}).get("conditions") or []
    return {one["type"]: one for one in found if one.get("status") == "True"}


def index_of(pod: Object) -> int | None:
    """Which of an Indexed Job's pods it is."""
    text = (pod["metadata"].get("annotations") or {}).get(_INDEX)
    return int(text) if text is not None else None


def ended_indexes(job: Object) -> set[int]:
    """Those of an Indexed Job that have succeeded or failed."""
    status = job.get("status") or {}
    return {n for key in ("completedIndexes", "failedIndexes") for n in _numbers(str(status.get(key) or ""))}


def _index_state(job: Object, index: int | None) -> State | None:
    """How one of an Indexed Job's pods ended; None while it has not."""
    status = job.get("status") or {}
    for key, state in (("completedIndexes", State.SUCCEEDED), ("failedIndexes", State.FAILED)):
        if index is not None and index in _numbers(str(status.get(key) or "")):
            return state
    return None


def _numbers(text: str) -> set[int]:
    """``0,2-4`` → 0, 2, 3, 4."""
    found: set[int] = set()
    for first, last in re.findall(r"([0-9]+)(?:-([0-9]+))?", text):
        found |= set(range(int(first), int(last or first) + 1))
    return found


def _without_job(name: JobName, pods: Sequence[Object]) -> Observation:
    living = [pod for pod in pods if _phase(pod) in ("Pending", "Running")]
    if living:
        words = f"its Job was deleted, and its pod {_name(living[0])} stops"
        return Observation(State.RUNNING, words, detail=words)
    why = "it was deleted, or it ended and was not kept any longer (keep_finished)"
    return Observation(State.UNKNOWN, f"Kubernetes has no Job {name.name} any more: {why}", forgotten=True)


def _ended(state: State, reason: str, message: str, pods: Sequence[Object]) -> Observation:
    if state is State.SUCCEEDED:
        words = "Complete in Kubernetes"
        return Observation(state, words, detail=words)
    pod = next((_failure(pod) for pod in pods if _phase(pod) == "Failed"), "")
    own = f"Failed in Kubernetes ({reason})" if reason else "Failed in Kubernetes"
    meaning = _JOB_FAILURES.get(reason, message)
    words = "; ".join(part for part in (f"{own}: {meaning}" if meaning else own, pod) if part)
    return Observation(state, words, detail=words)


def _unfinished(
    job: Object, conditions: Mapping[str, Object], pods: Sequence[Object], warnings: Sequence[Object]
) -> Observation:
    if job["metadata"].get("deletionTimestamp"):
        words = "its Job is being deleted; a pod that runs stores a checkpoint first"
        return Observation(State.RUNNING, words, detail=words)
    if "Suspended" in conditions:
        return _waiting("Suspended", str(conditions["Suspended"].get("message") or "its queue has not let it in yet"))
    if "FailureTarget" in conditions:  # Failed follows once its pods have stopped
        words = f"failing in Kubernetes ({conditions['FailureTarget'].get('reason', '')}), its pods stop"
        return Observation(State.RUNNING, words, detail=words)
    living = [pod for pod in pods if _phase(pod) not in ("Failed", "Succeeded")]
    failed = [pod for pod in pods if _phase(pod) == "Failed"]
    before = f"; before: {_failure(failed[0])}" if failed else ""
    if living:
        found = _living(living[0], warnings)
        return Observation(found.state, found.reason + before, found.detail + before)
    if why := _last_warning(warnings, "Job", job, _OF_A_JOB):
        return _waiting("no pod", f"its pod cannot be made: {why}{before}")
    return _waiting("no pod", f"its next pod is yet to come{before}" if failed else "its pod is yet to come")


def _living(pod: Object, warnings: Sequence[Object]) -> Observation:
    """A pod that has not ended."""
    name, node = _name(pod), (pod.get("spec") or {}).get("nodeName")
    if pod["metadata"].get("deletionTimestamp"):
        words = f"its pod {name} is being stopped; it stores a checkpoint first"
        return Observation(State.RUNNING, words, detail=words)
    if stuck := _stuck(pod):
        return _waiting(*stuck)
    if _phase(pod) == "Running":
        ready = _condition(pod, "Ready").get("status")
        away = ", which does not answer" if ready in ("False", "Unknown") and _runs(pod) else ""
        words = f"Running in Kubernetes in the pod {name} on {node}{away}"
        return Observation(State.RUNNING, words, detail=words)
    if _phase(pod) == "Unknown":
        words = f"Unknown in Kubernetes: the node {node} of its pod {name} does not answer"
        return Observation(State.RUNNING, words, detail=words)
    return _waiting("Pending", _last_warning(warnings, "Pod", pod) or _still_to_come(pod))


def _stuck(pod: Object) -> tuple[str, str] | None:
    """Kubernetes' word for what keeps a pod from running, and the reason in a sentence."""
    scheduled = _condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        return str(scheduled.get("reason", "Unschedulable")), str(scheduled.get("message") or "no node has room for it")
    for state in _container_states(pod):
        waiting = state.get("waiting") or {}
        if (reason := waiting.get("reason")) in _WAITING:
            said = _sentence(str(waiting.get("message") or ""))
            return reason, f"{_WAITING[reason]}{f': {said}' if said else ''}"
    return None


def _still_to_come(pod: Object) -> str:
    return "its container is being made" if _condition(pod, "PodScheduled") else "no node has been looked for yet"


def _runs(pod: Object) -> bool:
    return any("running" in state for state in _container_states(pod))


def _condition(thing: Object, kind: str) -> Object:
    """The condition of this type, true or not; empty if there is none."""
    found = (thing.get("status") or {}).get("conditions") or []
    return next((dict(one) for one in found if one.get("type") == kind), {})


def _waiting(word: str, why: str) -> Observation:
    words = f"Pending in Kubernetes ({word}): {why}"
    return Observation(State.PENDING, words, detail=words)


def _failure(pod: Object) -> str:
    """Why a pod failed."""
    status = pod.get("status") or {}
    disruption = conditions_of(pod).get("DisruptionTarget", {}).get("reason")
    parts = [_DISRUPTIONS.get(disruption, f"it was disrupted ({disruption})")] if disruption else []
    if reason := status.get("reason"):
        said = (_POD_FAILURES.get(reason), _sentence(str(status.get("message") or "")))
        parts.append(": ".join([reason, *(part for part in said if part)]))
    for state in _container_states(pod):
        terminated = state.get("terminated")
        if terminated and terminated.get("exitCode"):
            parts.append(_exit(terminated))
    return f"its pod {_name(pod)} failed: {'; '.join(parts) or 'Kubernetes does not say why'}"


def _exit(ended: Mapping[str, Any]) -> str:
    code, reason = ended["exitCode"], ended.get("reason", "")
    if reason == "OOMKilled":
        return "OOMKilled: its memory ran out; raise `memory` in the site file"
    if reason in ("ContainerCannotRun", "StartError"):
        return f"{reason}: {_sentence(str(ended.get('message') or ''))}"
    meaning = f": {_EXIT_CODES[code]}" if code in _EXIT_CODES else ""
    return f"exit code {code}{meaning}"


def _container_states(pod: Object) -> Iterator[Mapping[str, Any]]:
    for one in (pod.get("status") or {}).get("containerStatuses") or []:
        yield one.get("state") or {}


def _last_warning(warnings: Sequence[Object], kind: str, of: Object, reasons: Sequence[str] = ()) -> str:
    """What the newest event about an object says; empty if there is none."""
    uid = of["metadata"]["uid"]
    for event in reversed(warnings):
        about = event.get("involvedObject") or {}
        if about.get("kind") == kind and about.get("uid") == uid and (not reasons or event.get("reason") in reasons):
            return f"{event.get('reason')}: {_sentence(str(event.get('message') or ''))}"
    return ""


def _sentence(text: str) -> str:
    """In one line, of bearable length."""
    line = " ".join(text.split())
    return line if len(line) <= 300 else f"{line[:297]}..."


def _phase(pod: Object) -> str:
    return str((pod.get("status") or {}).get("phase", ""))


def _name(pod: Object) -> str:
    return str(pod["metadata"]["name"])


def _started(pod: Object) -> str:
    return str(pod["metadata"].get("creationTimestamp") or "")
