"""What is said of a Job: objects as API servers gave them (1.20 by its tests' runs, newer ones by their documentation), cut
down to what counts."""

from __future__ import annotations

import random
from typing import Any

import pytest

from cefr_batch.launch.base import State
from cefr_batch.launch.k8s.manifest import JobName
from cefr_batch.launch.k8s.status import needs_events, observe

NAME = JobName("tiny-b1-peft-v1")
Object = dict[str, Any]


def condition(kind: str, status: str = "True", **more: str) -> Object:
    return {"type": kind, "status": status, **more}


def job(*conditions: Object, deleted: bool = False, **status: Any) -> Object:
    metadata = {"name": NAME.name, "uid": "j", **({"deletionTimestamp": "2026-11-22T18:00:00Z"} if deleted else {})}
    return {"metadata": metadata, "spec": {}, "status": {"conditions": list(conditions), **status}}


def pod(phase: str, state: Object | None = None, *conditions: Object, number: int = 1, **more: Any) -> Object:
    deleted = {"deletionTimestamp": "2026-11-22T18:00:00Z"} if more.pop("deleted", False) else {}
    annotations = {"batch.kubernetes.io/job-completion-index": str(more.pop("index"))} if "index" in more else {}
    return {
        "metadata": {
            "name": f"tiny-b1-peft-v1-p{number}",
            "uid": f"p{number}",
            "creationTimestamp": f"2026-11-22T17:00:{number:02}Z",
            "annotations": annotations,
            **deleted,
        },
        "spec": {"nodeName": "n1"},
        "status": {
            "phase": phase,
            "conditions": list(conditions),
            "containerStatuses": [{"name": "cefr-batch", "state": state}] if state else [],
            **more,
        },
    }


def ended(code: int, reason: str = "Error") -> Object:
    return {"terminated": {"exitCode": code, "reason": reason}}


def waits(reason: str, message: str = "") -> Object:
    return {"waiting": {"reason": reason, "message": message}}


def event(kind: str, uid: str, reason: str, message: str) -> Object:
    return {"involvedObject": {"kind": kind, "uid": uid}, "reason": reason, "message": message, "type": "Warning"}


SCHEDULED = condition("PodScheduled")
NO_ROOM = condition(
    "PodScheduled", "False", reason="Unschedulable", message="0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
)
BACKOFF = condition("Failed", reason="BackoffLimitExceeded", message="Job has reached the specified backoff limit")
EVICTED: Object = {"reason": "Evicted", "message": "The node was low on resource: ephemeral-storage."}

# Job, pods, events → our word, and parts of the reason.
CASES: dict[str, tuple[Object | None, list[Object], list[Object], State, list[str]]] = {
    "no pod yet": (job(), [], [], State.PENDING, ["its pod is yet to come"]),
    "quota": (
        job(),
        [],
        [
            event("Job", "other", "FailedCreate", "not ours"),
            event("Job", "j", "FailedCreate", 'pods "x" is forbidden: exceeded quota: q, requested: pods=1'),
            event("Pod", "j", "FailedCreate", "not a Job"),
        ],
        State.PENDING,
        ["its pod cannot be made: FailedCreate: pods", "exceeded quota: q"],
    ),
    "unschedulable": (
        job(),
        [pod("Pending", None, NO_ROOM)],
        [],
        State.PENDING,
        ["Pending in Kubernetes (Unschedulable): 0/1 nodes are available: 1 Insufficient nvidia.com/gpu."],
    ),
    "gated": (
        job(),
        [pod("Pending", None, condition("PodScheduled", "False", reason="SchedulingGated"))],
        [],
        State.PENDING,
        ["(SchedulingGated)"],
    ),
    "suspended by Kueue": (
        job(condition("Suspended", reason="JobSuspended")), [], [], State.PENDING, ["(Suspended)", "its queue"],
    ),
    "image": (
        job(),
        [pod("Pending", waits("ImagePullBackOff", 'Back-off pulling image "x"'), SCHEDULED)],
        [],
        State.PENDING,
        ['(ImagePullBackOff): its image cannot be pulled: Back-off pulling image "x"'],
    ),
    "image never pulled": (
        job(), [pod("Pending", waits("ErrImageNeverPull"), SCHEDULED)], [], State.PENDING, ["never to pull it"],
    ),
    "secret": (
        job(),
        [pod("Pending", waits("CreateContainerConfigError", 'secret "nowhere" not found'), SCHEDULED)],
        [],
        State.PENDING,
        ['(CreateContainerConfigError): its container cannot be made: secret "nowhere" not found'],
    ),
    "crash loop": (
        job(), [pod("Running", waits("CrashLoopBackOff", "back-off 5m0s"))], [], State.PENDING, ["(CrashLoopBackOff)"],
    ),
    "volume": (
        job(),
        [pod("Pending", waits("ContainerCreating"), SCHEDULED)],
        [
            event("Pod", "p1", "FailedMount", "too early"),
            event("Pod", "p1", "FailedMount", 'persistentvolumeclaim "models" is lost'),
        ],
        State.PENDING,
        ['FailedMount: persistentvolumeclaim "models" is lost'],
    ),
    "being made": (
        job(),
        [pod("Pending", waits("ContainerCreating"), SCHEDULED)],
        [],
        State.PENDING,
        ["its container is being made"],
    ),
    "running": (
        job(),
        [pod("Running", {"running": {}}, condition("Ready"))],
        [],
        State.RUNNING,
        ["Running in Kubernetes in the pod tiny-b1-peft-v1-p1 on n1"],
    ),
    "node away": (
        job(),
        [pod("Running", {"running": {}}, condition("Ready", "False"))],
        [],
        State.RUNNING,
        ["on n1, which does not answer"],
    ),
    "node unknown": (job(), [pod("Unknown")], [], State.RUNNING, ["the node n1 of its pod"]),
    "pod being stopped": (
        job(), [pod("Running", {"running": {}}, deleted=True)], [], State.RUNNING, ["is being stopped"],
    ),
    "second pod": (
        job(),
        [pod("Failed", ended(137, "OOMKilled")), pod("Running", {"running": {}}, number=2)],
        [],
        State.RUNNING,
        ["-p2 on n1; before: its pod tiny-b1-peft-v1-p1 failed: OOMKilled: its memory ran out; raise `memory`"],
    ),
    "between two": (
        job(), [pod("Failed", ended(1))], [], State.PENDING, ["its next pod is yet to come; before:", "exit code 1"],
    ),
    "failed for good": (
        job(BACKOFF),
        [pod("Failed", ended(1)), pod("Failed", ended(137), number=2)],
        [],
        State.FAILED,
        ["Failed in Kubernetes (BackoffLimitExceeded)", "-p2 failed: exit code 137: it was killed (SIGKILL)"],
    ),
    "settings": (
        job(condition("Failed", reason="PodFailurePolicy", message="Container cefr-batch failed with exit code 2")),
        [pod("Failed", ended(2))],
        [],
        State.FAILED,
        ["(PodFailurePolicy): it would fail again", "exit code 2: it refused what it was told to do"],
    ),
    "deadline": (
        job(condition("Failed", reason="DeadlineExceeded")), [], [], State.FAILED, ["raise `time` in the site file"],
    ),
    "evicted by the node": (
        job(BACKOFF), [pod("Failed", None, **EVICTED)], [], State.FAILED, ["Evicted", "ephemeral-storage"],
    ),
    "evicted by the API": (
        job(),
        [pod("Failed", ended(75), condition("DisruptionTarget", reason="EvictionByEvictionAPI"))],
        [],
        State.PENDING,
        ["it was evicted; exit code 75: it stopped after a checkpoint"],
    ),
    "disrupted in a new way": (
        job(),
        [pod("Failed", None, condition("DisruptionTarget", reason="Moonbeam"))],
        [],
        State.PENDING,
        ["it was disrupted (Moonbeam)"],
    ),
    "node lost": (
        job(BACKOFF), [pod("Failed", None, reason="NodeLost")], [], State.FAILED, ["NodeLost: its node was lost"],
    ),
    "program missing": (
        job(BACKOFF),
        [pod("Failed", {"terminated": {"exitCode": 128, "reason": "StartError", "message": "no such\nfile"}})],
        [],
        State.FAILED,
        ["StartError: no such file"],
    ),
    "complete": (job(condition("Complete")), [pod("Succeeded", ended(0))], [], State.SUCCEEDED, ["Complete"]),
    "complete, from 1.31": (
        job(condition("SuccessCriteriaMet"), condition("Complete")), [], [], State.SUCCEEDED, ["Complete"],
    ),
    "failing, from 1.31": (
        job(condition("FailureTarget", reason="PodFailurePolicy")),
        [pod("Running", {"running": {}}, deleted=True)],
        [],
        State.RUNNING,
        ["failing in Kubernetes (PodFailurePolicy)"],
    ),
    "a condition that is false": (job(condition("Failed", "False")), [], [], State.PENDING, ["yet to come"]),
    "Job being deleted": (job(deleted=True), [], [], State.RUNNING, ["is being deleted"]),
    "Job gone, pod stops": (None, [pod("Running", {"running": {}})], [], State.RUNNING, ["its Job was deleted"]),
    "Job gone": (None, [pod("Failed", ended(1))], [], State.UNKNOWN, ["has no Job tiny-b1-peft-v1 any more"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_state_says_why(case: str) -> None:
    found, pods, events, state, parts = CASES[case]
    for _ in range(3):  # the order of conditions and pods means nothing
        random.shuffle(pods)
        for one in [*([found] if found else []), *pods]:
            random.shuffle(one["status"]["conditions"])
        observation = observe(NAME, found, pods, events)
        assert observation.state is state
        assert [part for part in parts if part not in observation.reason] == []
    assert observation.forgotten == (state is State.UNKNOWN)
    assert "\n" not in observation.reason


@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_a_pod_of_an_indexed_job_is_judged_by_its_own_index(index: int) -> None:
    indexed = job(completedIndexes="0", failedIndexes="2-3")
    pods = [pod("Failed", ended(1), index=index)] if index > 1 else [pod("Running", {"running": {}}, index=index)]
    observation = observe(JobName(NAME.name, index), indexed, pods, [])
    expected = {0: State.SUCCEEDED, 1: State.RUNNING, 2: State.FAILED, 3: State.FAILED}[index]
    assert observation.state is expected
    assert ("exit code 1" in observation.reason) == (expected is State.FAILED)


def test_events_are_asked_for_only_where_they_may_say_more() -> None:
    assert needs_events(job(), [])
    assert needs_events(job(), [pod("Pending")])
    assert not needs_events(job(), [pod("Running")])
    assert not needs_events(job(condition("Complete")), [])
    assert not needs_events(None, [])


def test_objects_without_a_status_are_not_a_crash() -> None:
    bare = {"metadata": {"name": "x", "uid": "u"}}
    assert observe(NAME, bare, [{"metadata": {"name": "p", "uid": "p"}}], []).state is State.PENDING
