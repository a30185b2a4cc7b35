"""A job's state and the reason for it, from its Job, pods and events: Kubernetes' own words, explained. Pure.

Conditions are found by their type: their order means nothing, and newer servers have more of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from cefr_batch.errors import EXIT_INTERRUPTED, UsageError
from cefr_batch.records.timestamps import parse_time
from cefr_batch.schedulers.base import Observation, State
from cefr_batch.schedulers.k8s.client import Object
from cefr_batch.schedulers.k8s.manifest import QUEUE, JobName

_INDEX = "batch.kubernetes.io/job-completion-index"

# What Kubernetes' words mean.
_JOB_FAILURES = {
    "BackoffLimitExceeded": "it failed more often than max_restarts in the site file allows",
    "DeadlineExceeded": "it reached its time limit; raise time in the site file, then resume the run",
    "PodFailurePolicy": "it would fail again in the same way, so it was not restarted",
}
_POD_FAILURES = {
    "Evicted": "node pressure",
    "NodeLost": "its node was lost",
    "NodeShutdown": "its node was shut down",
    "Terminated": "its node was shut down",
    "Shutdown": "its node was shut down",
    "Preempting": "preempted by a higher-priority pod",
    "Preempted": "preempted by a higher-priority pod",
    "DeadlineExceeded": "it reached its time limit",
    "UnexpectedAdmissionError": "its node did not accept it",
}
_DISRUPTIONS = {
    "EvictionByEvictionAPI": "evicted, as when a node is drained",
    "PreemptionByScheduler": "preempted by a higher-priority pod",
    "DeletionByTaintManager": "its node was lost",
    "DeletionByPodGC": "its node was lost",
    "TerminationByKubelet": "evicted (node pressure)",
}
_EXIT_CODES = {
    EXIT_INTERRUPTED: "it stored a checkpoint first",
    UsageError.exit_code: "it cannot run as it is set up; its log says why, and a restart would not help",
    137: "killed (SIGKILL)",
    143: "stopped before it could start (SIGTERM)",
}
# What keeps a container from running, and what to do.
_CORRECT = "cancel the run, correct {} in the site file, and resume it"
_PULL = ("the image cannot be pulled", _CORRECT.format("image or image_pull_secrets"))
_CREATE = ("the container cannot be created", f"create what is missing, or {_CORRECT.format('its name')}")
_WAITING = {
    "ErrImagePull": _PULL,
    "ImagePullBackOff": _PULL,
    "ErrImageNeverPull": (
        "the image is not on the node, and image_pull_policy is Never",
        f"load it there, or {_CORRECT.format('image or image_pull_policy')}",
    ),
    "InvalidImageName": ("invalid image name", _CORRECT.format("image")),
    "CreateContainerConfigError": _CREATE,
    "CreateContainerError": _CREATE,
    "CrashLoopBackOff": ("the container exits again and again", "see its log"),
    "RunContainerError": ("the container cannot be started", "see kubectl describe pod"),
}
_UNSCHEDULABLE = "it starts once a node has room; if none ever will, " + _CORRECT.format(
    "gpus, cpus, memory, node_selector, node_affinity or tolerations"
)
_NO_OTHER = (
    "so Kubernetes starts no other pod; if the node is surely gone, `cefr-batch resume --force RUN` deletes the pod and "
    "starts the run again"
)
_OVERDUE = timedelta(seconds=60)  # after a pod's grace period, for the node to say that it has stopped; clocks differ
# How long the Job controller waits after the n-th failure, those included that it does not count: 10 s, 20 s, 40 s …
_FIRST_DELAY, _LONGEST_DELAY = timedelta(seconds=10), timedelta(minutes=10)
# Events of the kubelet's about name servers: the pod starts all the same.
_HARMLESS = ("MissingClusterDNS", "DNSConfigForming")
_JOB_EVENTS = ("FailedCreate", "FailedDelete", "InvalidPod")  # that say why a Job has no pod


def observe(
    name: JobName,
    job: Object | None,
    pods: Iterable[Object],
    warnings: Sequence[Object],
    *,
    workload: Object | None = None,
    now: datetime | None = None,
) -> Observation:
    """The state of a job and why. ``job``: None if Kubernetes has none of this name; ``pods``: those of this Job (of the
    index alone, if it has one); ``warnings``: events of type Warning about them, the oldest first; ``workload``: what
    Kueue says of the Job, if it is in a queue."""
    newest_first = sorted(pods, key=_created, reverse=True)
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
    return _Unfinished(job, newest_first, warnings, workload, now or datetime.now(timezone.utc)).observation()


def explained_by(job: Object | None, pods: Iterable[Object]) -> list[str]:
    """The UIDs of the objects whose events may explain the state of a job that should run, and does not."""
    if job is None or finished(job) or job["metadata"].get("deletionTimestamp"):
        return []
    active = [pod for pod in pods if _phase(pod) not in ("Failed", "Succeeded")]
    if any(_phase(pod) == "Running" for pod in active):
        return []
    return [str(one["metadata"]["uid"]) for one in active or [job]]


def in_queue(job: Object | None) -> bool:
    """Whether a Job that has not ended is in a queue of Kueue."""
    return job is not None and not finished(job) and QUEUE in (job["metadata"].get("labels") or {})


def is_lost(pod: Object, now: datetime | None = None) -> bool:
    """Whether a pod has not ended, and its node no longer says how it does."""
    return bool(_lost(pod, now or datetime.now(timezone.utc)))


def finished(job: Object) -> bool:
    """Whether a Job has ended, and all its pods with it."""
    return bool({"Complete", "Failed"} & set(conditions_of(job)))


def conditions_of(thing: Object) -> dict[str, Object]:
    """A Job's or pod's conditions that are true, by type."""
    found = (thing.get("status") or {}).get("conditions") or []
    return {one["type"]: one for one in found if one.get("status") == "True"}


def index_of(pod: Object) -> int | None:
    """The pod's index in its Indexed Job; None in a Job without indexes."""
    text = (pod["metadata"].get("annotations") or {}).get(_INDEX)
    return int(text) if text is not None else None


def ended_indexes(job: Object) -> set[int]:
    """The indexes of an Indexed Job that have succeeded or failed."""
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
    active = [pod for pod in pods if _phase(pod) in ("Pending", "Running")]
    if active:
        words = f"its Job was deleted; its pod {_name(active[0])} is stopping"
        return Observation(State.RUNNING, words, detail=words)
    why = "it was deleted, or it finished and was removed after ttl_after_finished"
    return Observation(State.UNKNOWN, f"Kubernetes no longer has the Job {name.name}: {why}", not_found=True)


def _ended(state: State, reason: str, message: str, pods: Sequence[Object]) -> Observation:
    if state is State.SUCCEEDED:
        words = "Complete in Kubernetes"
        return Observation(state, words, detail=words)
    failed = next((pod for pod in pods if _phase(pod) == "Failed"), None)
    own = f"Failed in Kubernetes ({reason})" if reason else "Failed in Kubernetes"
    meaning = _JOB_FAILURES.get(reason, message)
    words = f"{own}: {meaning}" if meaning else own
    if failed is None:
        return Observation(state, words, detail=words)
    detail = f"{words}; {_failure(failed)}"
    return Observation(state, detail + _said(failed), detail=detail)


@dataclass(frozen=True)
class _Unfinished:
    """A Job that has not ended, its pods (the newest first), and what else is known of it."""

    job: Object
    pods: Sequence[Object]
    warnings: Sequence[Object]
    workload: Object | None
    now: datetime

    def observation(self) -> Observation:
        active = [pod for pod in self.pods if _phase(pod) not in ("Failed", "Succeeded")]
        if active and (lost := _lost(active[0], self.now)):
            return Observation(State.UNKNOWN, lost, detail=lost)
        conditions = conditions_of(self.job)
        if self.job["metadata"].get("deletionTimestamp"):
            return _running(
                "its Job is being deleted; a running pod stores a checkpoint after the step that it is computing"
            )
        if "Suspended" in conditions:
            return self._suspended(str(conditions["Suspended"].get("message") or ""))
        if "FailureTarget" in conditions:  # Failed follows once its pods have stopped
            reason = conditions["FailureTarget"].get("reason", "")
            return _running(f"failing in Kubernetes ({reason}); its pods are stopping")
        return self._with_failures(self._newest(active) if active else self._without_pod())

    def _with_failures(self, found: Observation) -> Observation:
        failed = next((pod for pod in self.pods if _phase(pod) == "Failed"), None)
        if failed is None:
            return found
        before = f"; before: {_failure(failed)}"
        return Observation(found.state, found.reason + before + _said(failed), found.detail + before)

    def _without_pod(self) -> Observation:
        failed = [pod for pod in self.pods if _phase(pod) == "Failed"]
        if why := _last_warning(self.warnings, "Job", self.job, _JOB_EVENTS):
            return _waiting("no pod", f"its pod cannot be created, Kubernetes keeps trying: {why}")
        admitted = "admitted by its queue, but " if "Admitted" in conditions_of(self.workload or {}) else ""
        due = _next_pod_due(failed)
        later = f", and not before {due:%H:%M:%S} UTC: the delay grows with each failure" if due > self.now else ""
        return _waiting("no pod", f"{admitted}its {'next ' if failed else ''}pod is not created yet{later}")

    def _newest(self, active: Sequence[Object]) -> Observation:
        """Of the newest pod. Before Kubernetes 1.28 it is there while the one before is still stopping, and may have no room
        until then."""
        found = self._active(active[0])
        before = next((pod for pod in active[1:] if pod["metadata"].get("deletionTimestamp")), None)
        if before is None or found.state is not State.PENDING or _lost(before, self.now):
            return found
        words = f"its pod {_name(before)} is being stopped and stores a checkpoint; then the next pod starts by itself"
        return Observation(State.PENDING, words, detail=words)

    def _active(self, pod: Object) -> Observation:
        """A pod that has not ended, and whose node is there."""
        name, node = _name(pod), _node(pod)
        if pod["metadata"].get("deletionTimestamp"):
            return _running(
                f"its pod {name} on {node} is being stopped; it stores a checkpoint after the step that it is computing"
            )
        if stuck := _stuck(pod):
            return _waiting(*stuck)
        if _phase(pod) == "Running":
            return _running(f"Running in Kubernetes in the pod {name} on {node}")
        return _waiting("Pending", _last_warning(self.warnings, "Pod", pod) or _not_running_yet(pod))

    def _suspended(self, message: str) -> Observation:
        """By Kueue or by a person. Kueue's own words are in the Job's workload, for those who may read it."""
        queue = (self.job["metadata"].get("labels") or {}).get(QUEUE)
        if not queue:
            return _waiting("Suspended", message or "somebody suspended its Job")
        conditions = conditions_of(self.workload or {})
        if evicted := conditions.get("Evicted"):
            how = "preempted" if evicted.get("reason") == "Preempted" else f"evicted ({evicted.get('reason')})"
            why = _one_line(str(evicted.get("message") or "")).rstrip(".")
            then = "it continues from its checkpoint once it is admitted again"
            return _waiting("Suspended", f"{how} in the queue {queue}{f': {why}' if why else ''}; {then}")
        waits = _one_line(str(_condition(self.workload or {}, "QuotaReserved").get("message") or message)).rstrip(".")
        return _waiting("Suspended", f"its queue {queue} has not admitted it yet{f': {waits}' if waits else ''}")


def _running(words: str) -> Observation:
    return Observation(State.RUNNING, words, detail=words)


def _lost(pod: Object, now: datetime) -> str:
    """What is known of a pod whose node no longer reports; empty for any other."""
    name, node = _name(pod), _node(pod)
    if until := pod["metadata"].get("deletionTimestamp"):  # when its grace period ends
        if now - _time(until) < _OVERDUE:
            return ""
        return f"its pod {name} had to stop by {until}, and its node {node} does not say that it has, {_NO_OTHER}"
    ready = _condition(pod, "Ready")
    away = ready.get("status") in ("False", "Unknown") and ready.get("reason") != "ContainersNotReady"
    if _phase(pod) == "Unknown" or (away and _phase(pod) == "Running" and _is_running(pod)):
        return f"the node {node} of its pod {name} does not report its state, {_NO_OTHER}"
    return ""


def _next_pod_due(failed: Sequence[Object]) -> datetime:
    """Before when the Job controller starts no other pod. It may be later: failed pods that were deleted count, too."""
    ends = [_time(time) for pod in failed if (time := _ended_at(pod))]
    delay = min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** min(len(failed) - 1, 10)) if failed else timedelta()
    return max(ends) + delay if ends else datetime.min.replace(tzinfo=timezone.utc)


def _ended_at(pod: Object) -> Any:
    """When a failed pod's container ended or, where it had none, when the pod failed; None if Kubernetes does not say."""
    times = [(state.get("terminated") or {}).get("finishedAt") for state in _container_states(pod)]
    return next(filter(None, times), None) or _condition(pod, "Ready").get("lastTransitionTime")


def _time(text: Any) -> datetime:
    return parse_time(str(text).replace("Z", "+00:00"))  # Python 3.10 knows no Z


def _node(pod: Object) -> str:
    return str((pod.get("spec") or {}).get("nodeName"))


def _stuck(pod: Object) -> tuple[str, str] | None:
    """Kubernetes' word for what keeps a pod from running, and the reason with what to do."""
    scheduled = _condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        word = str(scheduled.get("reason", "Unschedulable"))
        why = _one_line(str(scheduled.get("message") or "not scheduled yet")).rstrip(".")
        return word, f"{why}; {_UNSCHEDULABLE}" if word == "Unschedulable" else why
    for state in _container_states(pod):
        waiting = state.get("waiting") or {}
        reason = str(waiting.get("reason"))
        if reason in _WAITING:
            what, next_step = _WAITING[reason]
            said = _one_line(str(waiting.get("message") or ""))
            return reason, f"{': '.join(part for part in (what, said) if part)}; {next_step}"
    return None


def _not_running_yet(pod: Object) -> str:
    return "its container is being created" if _condition(pod, "PodScheduled") else "not scheduled yet"


def _is_running(pod: Object) -> bool:
    return any("running" in state for state in _container_states(pod))


def _condition(thing: Object, kind: str) -> Object:
    """The condition of this type, true or not; empty if there is none."""
    found = (thing.get("status") or {}).get("conditions") or []
    return next((dict(one) for one in found if one.get("type") == kind), {})


def _waiting(word: str, why: str) -> Observation:
    words = f"Pending in Kubernetes ({word}): {why}"
    return Observation(State.PENDING, words, detail=words)


def _failure(pod: Object) -> str:
    """Which pod failed, or was stopped, and why."""
    status = pod.get("status") or {}
    disruption = conditions_of(pod).get("DisruptionTarget", {}).get("reason")
    parts = [_DISRUPTIONS.get(disruption, f"disrupted ({disruption})")] if disruption else []
    if reason := status.get("reason"):
        said = (_POD_FAILURES.get(reason), _one_line(str(status.get("message") or "")))
        parts.append(": ".join([reason, *(part for part in said if part)]))
    ends = [state["terminated"] for state in _container_states(pod) if (state.get("terminated") or {}).get("exitCode")]
    parts += map(_exit, ends)
    verb = "was stopped" if any(end["exitCode"] == EXIT_INTERRUPTED for end in ends) else "failed"
    return f"its pod {_name(pod)} {verb}: {'; '.join(parts) or 'Kubernetes gives no reason'}"


def _exit(ended: Mapping[str, Any]) -> str:
    code, reason = ended["exitCode"], ended.get("reason", "")
    if reason == "OOMKilled":
        return "OOMKilled: it used more memory than it may; raise memory in the site file"
    if reason in ("ContainerCannotRun", "StartError"):
        return f"{reason}: {_one_line(str(ended.get('message') or ''))}"
    meaning = f": {_EXIT_CODES[code]}" if code in _EXIT_CODES else ""
    return f"exit code {code}{meaning}"


def _said(pod: Object) -> str:
    """The last line of a failed pod's output, as Kubernetes keeps it; nothing of one that was asked to stop."""
    for state in _container_states(pod):
        if (state.get("terminated") or {}).get("exitCode") == EXIT_INTERRUPTED:
            return ""
        lines = str((state.get("terminated") or {}).get("message") or "").strip().splitlines()
        if lines and (state["terminated"].get("reason") == "Error"):
            return f"; it said: {_one_line(lines[-1])}"
    return ""


def _container_states(pod: Object) -> Iterator[Mapping[str, Any]]:
    for one in (pod.get("status") or {}).get("containerStatuses") or []:
        yield one.get("state") or {}


def _last_warning(warnings: Sequence[Object], kind: str, of: Object, reasons: Sequence[str] = ()) -> str:
    """The newest event about an object, with one of these reasons if some are given, else any that keeps a pod from
    starting; empty if there is none."""
    uid = of["metadata"]["uid"]
    for event in reversed([one for one in warnings if one.get("reason") not in _HARMLESS]):
        about = event.get("involvedObject") or {}
        if about.get("kind") == kind and about.get("uid") == uid and (not reasons or event.get("reason") in reasons):
            return f"{event.get('reason')}: {_one_line(str(event.get('message') or ''))}"
    return ""


def _one_line(text: str) -> str:
    """The text in one line, of at most 300 characters: its beginning and, since an error that passed through several
    programs names its cause last, its end."""
    line = " ".join(text.split())
    return line if len(line) <= 300 else f"{line[:120]} … {line[-177:]}"


def _phase(pod: Object) -> str:
    return str((pod.get("status") or {}).get("phase", ""))


def _name(pod: Object) -> str:
    return str(pod["metadata"]["name"])


def _created(pod: Object) -> str:
    return str(pod["metadata"].get("creationTimestamp") or "")
