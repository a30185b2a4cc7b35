"""The state of a job and the reason for it, from objects as API servers gave them (1.20 in the end-to-end tests, newer ones
by their documentation), cut down to what counts."""

from __future__ import annotations

import random
from datetime import datetime
from typing import Any

import pytest

from cefr_batch.schedulers.base import State
from cefr_batch.schedulers.k8s.manifest import JobName
from cefr_batch.schedulers.k8s.status import explained_by, in_queue, is_lost, observe

NAME = JobName("tiny-b1-peft-v1")
NOW = datetime.fromisoformat("2026-11-22T18:00:30+00:00")
Object = dict[str, Any]


def condition(kind: str, status: str = "True", **more: str) -> Object:
    return {"type": kind, "status": status, **more}


def job(*conditions: Object, deleted: bool = False, **status: Any) -> Object:
    metadata = {"name": NAME.name, "uid": "j", **({"deletionTimestamp": "2026-11-22T18:00:00Z"} if deleted else {})}
    return {"metadata": metadata, "spec": {}, "status": {"conditions": list(conditions), **status}}


def pod(phase: str, state: Object | None = None, *conditions: Object, number: int = 1, **more: Any) -> Object:
    until = more.pop("deleted", False)  # when its grace period ends
    deleted = {"deletionTimestamp": "2026-11-22T18:00:00Z" if until is True else until} if until else {}
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


def ended(code: int, reason: str = "Error", **more: str) -> Object:
    return {"terminated": {"exitCode": code, "reason": reason, **more}}


def queued(*, suspended: bool = True) -> Object:
    """A Job in a queue of Kueue, and below its workload as Kueue 0.10 documents it."""
    found = job(*([condition("Suspended", reason="JobSuspended", message="Job suspended")] if suspended else []))
    found["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "gpus"}
    return found


def workload(*conditions: Object) -> Object:
    return {"metadata": {"name": "w"}, "status": {"conditions": list(conditions)}}


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

# Job, pods, events → the state, and parts of the reason.
CASES: dict[str, tuple[Object | None, list[Object], list[Object], State, list[str]]] = {
    "no pod yet": (job(), [], [], State.PENDING, ["its pod is not created yet"]),
    "quota": (
        job(),
        [],
        [
            event("Job", "other", "FailedCreate", "not ours"),
            event("Job", "j", "FailedCreate", 'pods "x" is forbidden: exceeded quota: q, requested: pods=1'),
            event("Pod", "j", "FailedCreate", "not a Job"),
        ],
        State.PENDING,
        ["its pod cannot be created, Kubernetes keeps trying: FailedCreate: pods", "exceeded quota: q"],
    ),
    "unschedulable": (
        job(),
        [pod("Pending", None, NO_ROOM)],
        [],
        State.PENDING,
        [
            "Pending in Kubernetes (Unschedulable): 0/1 nodes are available: 1 Insufficient nvidia.com/gpu; it starts",
            "once a node has room; if none ever will, cancel the run, correct gpus, cpus, memory, "
            "node_selector, node_affinity or tolerations in the site file",
        ],
    ),
    "gated": (
        job(),
        [pod("Pending", None, condition("PodScheduled", "False", reason="SchedulingGated"))],
        [],
        State.PENDING,
        ["(SchedulingGated): not scheduled yet"],
    ),
    "suspended by a person": (
        job(condition("Suspended", reason="JobSuspended")),
        [],
        [],
        State.PENDING,
        ["(Suspended): somebody suspended its Job"],
    ),
    "image": (
        job(),
        [pod("Pending", waits("ImagePullBackOff", 'Back-off pulling image "x"'), SCHEDULED)],
        [],
        State.PENDING,
        [
            '(ImagePullBackOff): the image cannot be pulled: Back-off pulling image "x"; cancel the run, correct image or'
        ],
    ),
    "image, in many words": (
        job(),
        [pod("Pending", waits("ErrImagePull", f"failed to pull: {'failed to copy: ' * 30}unauthorized"), SCHEDULED)],
        [],
        State.PENDING,
        [
            "(ErrImagePull): the image cannot be pulled: failed to pull: failed to copy",
            "failed to copy: unauthorized; cancel",
        ],
    ),
    "image never pulled": (
        job(),
        [pod("Pending", waits("ErrImageNeverPull"), SCHEDULED)],
        [],
        State.PENDING,
        ["the image is not on the node, and image_pull_policy is Never; load it there, or cancel"],
    ),
    "secret": (
        job(),
        [pod("Pending", waits("CreateContainerConfigError", 'secret "nowhere" not found'), SCHEDULED)],
        [],
        State.PENDING,
        ['(CreateContainerConfigError): the container cannot be created: secret "nowhere" not found; create'],
    ),
    "crash loop": (
        job(),
        [pod("Running", waits("CrashLoopBackOff", "back-off 5m0s"))],
        [],
        State.PENDING,
        ["(CrashLoopBackOff): the container exits again and again: back-off 5m0s; see its log"],
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
        ["its container is being created"],
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
        State.UNKNOWN,
        [
            "the node n1 of its pod tiny-b1-peft-v1-p1 does not report its state, so Kubernetes starts no other pod; if the"
        ],
    ),
    "its container stops, its node is there": (
        job(),
        [pod("Running", {"running": {}}, condition("Ready", "False", reason="ContainersNotReady"))],
        [],
        State.RUNNING,
        ["Running in Kubernetes"],
    ),
    "node unknown": (job(), [pod("Unknown")], [], State.UNKNOWN, ["the node n1 of its pod"]),
    "the next pod has no room while the last one stops": (
        job(),
        [
            pod("Pending", None, NO_ROOM, number=2),
            pod("Running", {"running": {}}, deleted="2026-11-22T18:00:00Z", number=1),
        ],
        [],
        State.PENDING,
        ["its pod tiny-b1-peft-v1-p1 is being stopped and stores a checkpoint; then the next pod starts by itself"],
    ),
    "a remark of the kubelet": (
        job(),
        [pod("Pending", None, SCHEDULED)],
        [event("Pod", "p1", "MissingClusterDNS", "Falling back to Default policy.")],
        State.PENDING,
        ["its container is being created"],
    ),
    "pod being stopped": (
        job(),
        [pod("Running", {"running": {}}, deleted=True)],
        [],
        State.RUNNING,
        [
            "its pod tiny-b1-peft-v1-p1 on n1 is being stopped; it stores a checkpoint after the step that it is computing"
        ],
    ),
    "pod that should have stopped": (
        job(),
        [pod("Running", {"running": {}}, deleted="2026-11-22T17:50:00Z")],
        [],
        State.UNKNOWN,
        [
            "its pod tiny-b1-peft-v1-p1 had to stop by 2026-11-22T17:50:00Z, and its node n1 does not say that it has, so "
            "Kubernetes starts no other pod; if the node is surely gone, `cefr-batch resume --force RUN` deletes the pod"
        ],
    ),
    "Job being deleted, its pod should have stopped": (
        job(deleted=True),
        [pod("Running", {"running": {}}, deleted="2026-11-22T17:50:00Z")],
        [],
        State.UNKNOWN,
        ["had to stop by"],
    ),
    "another pod runs in place of the lost one": (
        job(),
        [pod("Running", {"running": {}}, deleted="2026-11-22T17:50:00Z"), pod("Running", {"running": {}}, number=2)],
        [],
        State.RUNNING,
        ["in the pod tiny-b1-peft-v1-p2"],
    ),
    "the next pod is delayed": (
        job(),
        [pod("Failed", ended(75, finishedAt=f"2026-11-22T18:00:{n}0Z"), number=n) for n in (1, 2)],
        [],
        State.PENDING,
        [
            "its next pod is not created yet, and not before 18:00:40 UTC: the delay grows with each failure; before: its"
        ],
    ),
    "the next pod is due": (
        job(),
        [pod("Failed", ended(75, finishedAt="2026-11-22T18:00:10Z"))],
        [],
        State.PENDING,
        ["its next pod is not created yet; before:"],
    ),
    "what the pod said": (
        job(BACKOFF),
        [pod("Failed", ended(2, message="Traceback …\nerror: JOB_COMPLETION_INDEX is not set\n"))],
        [],
        State.FAILED,
        ["a restart would not help; it said: error: JOB_COMPLETION_INDEX is not set"],
    ),
    "not scheduled": (
        job(),
        [pod("Pending")],
        [],
        State.PENDING,
        ["Pending in Kubernetes (Pending): not scheduled yet"],
    ),
    "invalid image name": (
        job(),
        [pod("Pending", waits("InvalidImageName"), SCHEDULED)],
        [],
        State.PENDING,
        ["(InvalidImageName): invalid image name; cancel the run, correct image in the site file, and resume it"],
    ),
    "preempted": (
        job(),
        [pod("Failed", None, condition("DisruptionTarget", reason="PreemptionByScheduler"))],
        [],
        State.PENDING,
        ["failed: preempted by a higher-priority pod"],
    ),
    "second pod": (
        job(),
        [pod("Failed", ended(137, "OOMKilled")), pod("Running", {"running": {}}, number=2)],
        [],
        State.RUNNING,
        [
            "-p2 on n1; before: its pod tiny-b1-peft-v1-p1 failed: OOMKilled: it used more memory than it may; raise memory"
        ],
    ),
    "between two": (
        job(),
        [pod("Failed", ended(1))],
        [],
        State.PENDING,
        ["its next pod is not created yet; before:", "exit code 1"],
    ),
    "failed for good": (
        job(BACKOFF),
        [pod("Failed", ended(1)), pod("Failed", ended(137), number=2)],
        [],
        State.FAILED,
        ["Failed in Kubernetes (BackoffLimitExceeded)", "-p2 failed: exit code 137: killed (SIGKILL)"],
    ),
    "settings": (
        job(condition("Failed", reason="PodFailurePolicy", message="Container cefr-batch failed with exit code 2")),
        [pod("Failed", ended(2))],
        [],
        State.FAILED,
        ["(PodFailurePolicy): it would fail again", "exit code 2: it cannot run as it is set up"],
    ),
    "deadline": (
        job(condition("Failed", reason="DeadlineExceeded")),
        [],
        [],
        State.FAILED,
        ["it reached its time limit; raise time in the site file, then resume the run"],
    ),
    "evicted by the node": (
        job(BACKOFF),
        [pod("Failed", None, **EVICTED)],
        [],
        State.FAILED,
        ["Evicted: node pressure: The node was low on resource: ephemeral-storage"],
    ),
    "evicted by the API": (
        job(),
        [pod("Failed", ended(75), condition("DisruptionTarget", reason="EvictionByEvictionAPI"))],
        [],
        State.PENDING,
        ["was stopped: evicted, as when a node is drained; exit code 75: it stored a checkpoint first"],
    ),
    "disrupted in a new way": (
        job(),
        [pod("Failed", None, condition("DisruptionTarget", reason="Moonbeam"))],
        [],
        State.PENDING,
        ["disrupted (Moonbeam)"],
    ),
    "node lost": (
        job(BACKOFF),
        [pod("Failed", None, reason="NodeLost")],
        [],
        State.FAILED,
        ["NodeLost: its node was lost"],
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
        job(condition("SuccessCriteriaMet"), condition("Complete")),
        [],
        [],
        State.SUCCEEDED,
        ["Complete"],
    ),
    "failing, from 1.31": (
        job(condition("FailureTarget", reason="PodFailurePolicy")),
        [pod("Running", {"running": {}}, deleted=True)],
        [],
        State.RUNNING,
        ["failing in Kubernetes (PodFailurePolicy)"],
    ),
    "a condition that is false": (job(condition("Failed", "False")), [], [], State.PENDING, ["not created yet"]),
    "Job being deleted": (job(deleted=True), [], [], State.RUNNING, ["is being deleted"]),
    "Job gone, pod stops": (None, [pod("Running", {"running": {}})], [], State.RUNNING, ["its Job was deleted"]),
    "Job gone": (
        None,
        [pod("Failed", ended(1))],
        [],
        State.UNKNOWN,
        ["Kubernetes no longer has the Job tiny-b1-peft-v1: it was deleted, or it finished and"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_state_says_why(case: str) -> None:
    found, pods, events, state, parts = CASES[case]
    for _ in range(3):  # the order of conditions and pods means nothing
        random.shuffle(pods)
        for one in [*([found] if found else []), *pods]:
            random.shuffle(one["status"]["conditions"])
        observation = observe(NAME, found, pods, events, now=NOW)
        assert observation.state is state
        assert [part for part in parts if part not in observation.reason] == []
    assert observation.not_found == (found is None and state is State.UNKNOWN)
    assert "it said" not in observation.detail, "the job's own words are told once"
    assert "\n" not in observation.reason


@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_a_pod_of_an_indexed_job_is_judged_by_its_own_index(index: int) -> None:
    indexed = job(completedIndexes="0", failedIndexes="2-3")
    pods = [pod("Failed", ended(1), index=index)] if index > 1 else [pod("Running", {"running": {}}, index=index)]
    observation = observe(JobName(NAME.name, index), indexed, pods, [])
    expected = {0: State.SUCCEEDED, 1: State.RUNNING, 2: State.FAILED, 3: State.FAILED}[index]
    assert observation.state is expected
    assert ("exit code 1" in observation.reason) == (expected is State.FAILED)


QUEUES: dict[str, tuple[Object, Object | None, list[str]]] = {
    "waits": (
        queued(),
        workload(condition("QuotaReserved", "False", reason="Pending", message="insufficient unused quota for gpu.")),
        ["Pending in Kubernetes (Suspended): its queue gpus has not admitted it yet: insufficient unused quota for gpu"],
    ),
    "waits, and nobody may read why": (queued(), None, ["its queue gpus has not admitted it yet: Job suspended"]),
    "preempted": (
        queued(),
        workload(
            condition("QuotaReserved", "False", message="x"),
            condition("Evicted", reason="Preempted", message="Preempted to accommodate a workload (UID: u)"),
        ),
        ["preempted in the queue gpus: Preempted to accommodate a workload (UID: u); it continues from its checkpoint once"],
    ),
    "evicted": (
        queued(), workload(condition("Evicted", reason="PodsReadyTimeout")), ["evicted (PodsReadyTimeout) in the queue"]
    ),
    "admitted": (
        queued(suspended=False),
        workload(condition("QuotaReserved"), condition("Admitted")),
        ["(no pod): admitted by its queue, but its pod is not created yet"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", QUEUES)
def test_what_a_queue_does_is_told_in_words(case: str) -> None:
    found, of_kueue, parts = QUEUES[case]
    observation = observe(NAME, found, [], [], workload=of_kueue, now=NOW)
    assert observation.state is State.PENDING
    assert [part for part in parts if part not in observation.reason] == []
    assert (in_queue(found), in_queue(job()), in_queue(None)) == (True, False, False)


def test_only_a_pod_whose_node_is_away_is_lost() -> None:
    lost = [pod("Unknown"), pod("Running", {"running": {}}, deleted="2026-11-22T17:50:00Z")]
    others = [pod("Running", {"running": {}}, condition("Ready")), pod("Pending"), pod("Running", deleted=True)]
    assert [is_lost(one, NOW) for one in (*lost, *others)] == [True] * 2 + [False] * 3


def test_events_are_asked_for_only_where_they_may_say_more() -> None:
    assert explained_by(job(), []) == ["j"]
    assert explained_by(job(), [pod("Failed"), pod("Pending", number=2)]) == ["p2"]
    assert explained_by(job(), [pod("Running")]) == []
    assert explained_by(job(condition("Complete")), []) == []
    assert explained_by(None, []) == []


def test_objects_without_a_status_are_not_a_crash() -> None:
    bare = {"metadata": {"name": "x", "uid": "u"}}
    assert observe(NAME, bare, [{"metadata": {"name": "p", "uid": "p"}}], []).state is State.PENDING
