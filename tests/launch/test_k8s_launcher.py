"""The launcher's side: what it asks of the API server, what it makes of refusals, and what it finds wrong with a site. The
API server is a stand-in here, the client the real one (tests/e2e/test_k8s.py has a real cluster)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import pytest
from api_stand_in import Api, running_api

from cefr_batch.errors import LaunchError
from cefr_batch.launch import Batch, Job, JobOrder, State
from cefr_batch.launch.base import Check
from cefr_batch.launch.k8s import client
from cefr_batch.launch.k8s import launcher as module
from cefr_batch.launch.k8s.client import ApiError, _refusal, connect
from cefr_batch.launch.k8s.launcher import KubernetesLauncher

SITES = Path(__file__).parents[2] / "k8s"
STORE = "s3://bucket/prefix"
JOBS, PODS = "/apis/batch/v1/namespaces/team/jobs", "/api/v1/namespaces/team/pods"
RUNS = ("run-a", "run-b", "run-c")
BATCH = Batch(tuple(JobOrder(run, STORE) for run in RUNS), f"{STORE}/reports/run-a")


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    with running_api(tmp_path / "kubeconfig") as found:
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(found.kubeconfig))
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        monkeypatch.setattr(client, "_clusters", {})
        monkeypatch.setattr(module, "_seen", {})
        found.add("/api/v1/namespaces", {"metadata": {"name": "team"}})
        keys = {"AWS_ACCESS_KEY_ID": "eA==", "AWS_SECRET_ACCESS_KEY": "eA=="}
        found.add("/api/v1/namespaces/team/secrets", {"metadata": {"name": "cefr-batch-store"}, "data": keys})
        found.add("/api/v1/nodes", node())
        yield found


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., KubernetesLauncher]:
    """A launcher with the default site, but for what is given."""
    folder = tmp_path / "sites"
    folder.mkdir()
    monkeypatch.setenv("CEFR_BATCH_K8S", str(folder))
    (folder / "default.yaml").write_bytes((SITES / "default.yaml").read_bytes())

    def make(**more: object) -> KubernetesLauncher:
        (folder / "here.yaml").write_text(json.dumps({"extends": "default", **more}))
        return KubernetesLauncher("here")

    return make


def node(**more: Any) -> dict[str, Any]:
    labels = {"nvidia.com/gpu.memory": "23034", "pool": "gpu"}
    allocatable = {"nvidia.com/gpu": "1", "cpu": "8", "memory": "32Gi"}
    taints = [{"key": "nvidia.com/gpu", "effect": "NoSchedule", "value": "present"}]
    return {
        "metadata": {"name": "n1", "labels": labels},
        "spec": {"taints": taints, **more},
        "status": {"allocatable": allocatable},
    }


def failing(launcher: KubernetesLauncher) -> list[str]:
    return [f"{'maybe ' if one.warning else ''}{one.problem}" for one in checks(launcher) if one.problem]


def checks(launcher: KubernetesLauncher) -> list[Check]:
    return launcher.check(["peft"], STORE)


def priority(operator: str, *values: str) -> dict[str, Any]:
    return {"scopeName": "PriorityClass", "operator": operator, "values": list(values)}


def finish(api: Api, run: str, condition: str) -> None:
    api.objects[f"{JOBS}/{run}"]["status"] = {"conditions": [{"type": condition, "status": "True"}]}


def test_a_batch_is_sent_as_it_was_rendered_and_its_handles_are_in_order(
    api: Api, site: Callable[..., KubernetesLauncher]
) -> None:
    launcher = site()
    request = launcher.render(BATCH)
    handles = launcher.submit(request)
    assert handles == [*(f"k8s://here/team/{run}" for run in RUNS), "k8s://here/team/run-a-report"]
    for rendered in request.objects:
        sent = api.objects[f"{JOBS}/{rendered['metadata']['name']}"]
        assert {**sent, "metadata": rendered["metadata"]} == rendered


def test_a_context_may_have_any_name(api: Api, site: Callable[..., KubernetesLauncher]) -> None:
    arn = "arn:aws:eks:eu-west-1:1:cluster/here"
    launcher = site(context=arn)
    (handle,) = launcher.submit(launcher.render(Batch((JobOrder("run-a", STORE),))))
    assert handle == "k8s://arn%3Aaws%3Aeks%3Aeu-west-1%3A1%3Acluster%2Fhere/team/run-a"
    assert launcher.observe([Job("run-a", handle)])[Job("run-a", handle)].state is State.PENDING


def test_submitting_again_leaves_what_lives_and_replaces_what_has_ended(
    api: Api, site: Callable[..., KubernetesLauncher]
) -> None:
    launcher = site()
    request = launcher.render(BATCH)
    first = launcher.submit(request)
    api.objects[f"{JOBS}/run-a"]["old"] = api.objects[f"{JOBS}/run-b"]["old"] = True
    finish(api, "run-b", "Failed")
    api.gone_after = 2  # a Job stays until its pods have ended
    assert launcher.submit(request) == first
    assert "old" in api.objects[f"{JOBS}/run-a"]
    assert "old" not in api.objects[f"{JOBS}/run-b"]
    assert [call.partition("?")[0] for call in api.asked("DELETE")] == [f"DELETE {JOBS}/run-b"]
    assert "propagationPolicy=Foreground" in api.asked("DELETE")[0]


def test_a_job_of_another_store_is_not_touched(api: Api, site: Callable[..., KubernetesLauncher]) -> None:
    launcher = site()
    launcher.submit(launcher.render(Batch((JobOrder("run-b", "s3://other"),))))
    with pytest.raises(LaunchError, match="has a Job run-b already, of the run of this name in s3://other"):
        launcher.submit(launcher.render(BATCH))
    assert [key for key in api.objects if key.startswith(JOBS)] == [f"{JOBS}/run-b"]  # run-a was taken back


def test_without_its_report_a_batch_is_started_all_the_same(
    api: Api, site: Callable[..., KubernetesLauncher], capsys: pytest.CaptureFixture[str]
) -> None:
    api.add(JOBS, {"metadata": {"name": "run-a-report"}})
    launcher = site()
    assert len(launcher.submit(launcher.render(BATCH))) == 3
    assert "no report will be made after the runs" in capsys.readouterr().err


def test_two_questions_for_two_hundred_runs(api: Api, site: Callable[..., KubernetesLauncher]) -> None:
    launcher = site()
    orders = tuple(JobOrder(f"run-{n}", STORE) for n in range(200))
    jobs = [
        Job(order.run, handle)
        for order, handle in zip(orders, launcher.submit(launcher.render(Batch(orders))), strict=True)
    ]
    finish(api, "run-7", "Complete")
    api.calls.clear()
    found = launcher.observe(jobs)
    launcher.observe(jobs)  # again at once: whoever watches does not ask every second
    assert [found[job].state for job in jobs[6:9]] == [State.PENDING, State.SUCCEEDED, State.PENDING]
    paths = [call.partition("?")[0] for call in api.calls]
    assert paths == [f"GET {JOBS}", f"GET {PODS}", "GET /api/v1/namespaces/team/events"]
    assert all("labelSelector=app.kubernetes.io/managed-by=cefr-batch" in unquote(call) for call in api.calls[:2])


def test_an_api_server_that_does_not_answer_is_no_end(api: Api, site: Callable[..., KubernetesLauncher]) -> None:
    (handle, *_) = site().submit(site().render(BATCH))
    job, strange = Job("run-a", handle), Job("run-z", "k8s://nowhere/team/run-z")
    for status in (500, 503, 429, 403, 401):
        module._seen.clear()
        api.refused = {"GET /apis": status}
        assert site().observe([job])[job].state is State.UNKNOWN
    api.refused = {}
    found = site().observe([job, strange, Job("x", "slurm://x/1")])
    assert [one.state for one in found.values()] == [State.UNKNOWN, State.PENDING, State.UNKNOWN]
    assert not any(one.forgotten for one in found.values())
    assert "no context 'nowhere'; valid: here, arn:" in found[strange].reason
    module._seen.clear()
    api.objects.pop(f"{JOBS}/run-a")
    assert site().observe([job])[job].forgotten


def test_without_the_right_to_list_events_less_is_known_and_nothing_is_wrong(
    api: Api, site: Callable[..., KubernetesLauncher]
) -> None:
    (handle, *_) = site().submit(site().render(BATCH))
    api.refused = {"GET /api/v1/namespaces/team/events": 403}
    job = Job("run-a", handle)
    assert site().observe([job])[job].reason == "Pending in Kubernetes (no pod): its pod is yet to come"


def test_cancel_deletes_what_has_not_ended(api: Api, site: Callable[..., KubernetesLauncher]) -> None:
    launcher = site()
    handles = launcher.submit(launcher.render(BATCH))
    finish(api, "run-b", "Complete")
    jobs = [Job(run, handle) for run, handle in zip(RUNS, handles, strict=False)]
    for _ in range(2):
        launcher.cancel([*jobs, Job("run-z", "k8s://here/team/run-z")])
    assert sorted(key for key in api.objects if key.startswith(JOBS)) == [f"{JOBS}/run-a-report", f"{JOBS}/run-b"]
    api.refused = {"DELETE": 403}
    with pytest.raises(LaunchError, match="refused with 403"):
        launcher.cancel([Job("run-a", handles[-1])])


def test_runs_of_an_indexed_job_are_cancelled_together_only(api: Api, site: Callable[..., KubernetesLauncher]) -> None:
    launcher = site(several_levels="indexed")
    handles = launcher.submit(launcher.render(Batch(BATCH.orders)))
    (job,) = [key.removeprefix(f"{JOBS}/") for key in api.objects if key.startswith(JOBS)]
    assert job.startswith("run-a-and-2-")
    assert handles == [f"k8s://here/team/{job}/{n}" for n in range(3)]
    jobs = [Job(run, handle) for run, handle in zip(RUNS, handles, strict=True)]
    with pytest.raises(LaunchError, match="can be cancelled together only"):
        launcher.cancel(jobs[:2])
    launcher.cancel(jobs)
    assert not [key for key in api.objects if key.startswith(JOBS)]


def test_runs_of_an_indexed_job_that_have_ended_need_not_be_named(
    api: Api, site: Callable[..., KubernetesLauncher]
) -> None:
    launcher = site(several_levels="indexed")
    handles = launcher.submit(launcher.render(Batch(BATCH.orders)))
    (job,) = [key for key in api.objects if key.startswith(JOBS)]
    api.objects[job]["status"] = {"completedIndexes": "0", "failedIndexes": "2"}
    launcher.cancel([Job("run-b", handles[1])])
    assert not [key for key in api.objects if key.startswith(JOBS)]


@pytest.mark.parametrize("before", ["Failed", "deleted"])
def test_what_was_seen_of_a_job_is_not_said_of_its_successor(
    api: Api, site: Callable[..., KubernetesLauncher], before: str
) -> None:
    launcher, order = site(), JobOrder("run-a", STORE)
    (handle,) = launcher.submit(launcher.render(Batch((order,))))
    job = Job("run-a", handle)
    finish(api, "run-a", "Failed")
    if before == "deleted":
        del api.objects[f"{JOBS}/run-a"]
    assert launcher.observe([job])[job].state is not State.PENDING
    launcher.submit(launcher.render(Batch((order,))))  # at once, as `resume --wait` does
    assert launcher.observe([job])[job].state is State.PENDING
    launcher.cancel([job])
    assert launcher.observe([job])[job].forgotten


def test_the_last_output_is_the_newest_pods(api: Api, site: Callable[..., KubernetesLauncher]) -> None:
    for number, log in enumerate(("old", "new")):
        created = f"2026-11-22T18:00:0{number}Z"
        labels = {"job-name": "run-a"}
        api.add(PODS, {"metadata": {"name": f"p{number}", "labels": labels, "creationTimestamp": created}})
        api.objects[f"{PODS}/p{number}/log"] = log  # type: ignore[assignment]
    job = Job("run-a", "k8s://here/team/run-a")
    assert site().last_output(job, STORE) == "new"
    api.refused = {f"GET {PODS}/p1/log": 400}  # its container was never started
    assert site().last_output(job, STORE) == ""


def test_a_site_that_is_well(api: Api, site: Callable[..., KubernetesLauncher]) -> None:
    found = checks(site())
    assert [one for one in found if one.problem] == []
    assert [one.what for one in found] == [
        "context here",
        "namespace team",
        "permissions",
        "secret cefr-batch-store",
        "quota",
        "limit range",
        "nodes with 4 cpu, 24Gi memory, 1 nvidia.com/gpu",
        "dry run",
    ]
    assert api.asked(f"POST {JOBS}") == [f"POST {JOBS}?dryRun=All"]
    assert not [key for key in api.objects if key.startswith(JOBS)]


def test_everything_that_is_wrong_is_named_at_once(api: Api, site: Callable[..., KubernetesLauncher]) -> None:
    api.forbidden = {"create jobs", "get pods/log"}
    quota = {"hard": {"requests.nvidia.com/gpu": "1", "limits.memory": "64Gi"}, "used": {"limits.memory": "60Gi"}}
    api.add("/api/v1/namespaces/team/resourcequotas", {"metadata": {"name": "q"}, "status": quota})
    limits = [
        {"type": "Container", "max": {"cpu": "2500m"}},
        {"type": "PersistentVolumeClaim", "max": {"storage": "1"}},
    ]
    api.add("/api/v1/namespaces/team/limitranges", {"metadata": {"name": "l"}, "spec": {"limits": limits}})
    launcher = site(
        gpus=2, storage_secret="keys", hub_secret="cefr-batch-store", image_pull_secrets=["pull"], service_account="sa",
        cache_claim="models", priority_class="high", runtime_class="nvidia",
    )  # fmt: skip
    found = "\n".join(failing(launcher))
    for part in (
        "in the namespace team you may not create jobs, get pods/log; ask who runs the cluster for the Role of k8s/base",
        "k8s/here.yaml: the namespace team has no Secret keys; with the keys in your shell: kubectl create secret generic "
        'keys --namespace team --from-literal=AWS_ACCESS_KEY_ID="$AWS_ACCESS_KEY_ID" --from-literal=AWS_SECRET_ACCESS_KEY',
        "the Secret cefr-batch-store has no HF_TOKEN",
        "image_pull_secrets: the namespace team has no secret 'pull'",
        "service_account: the namespace team has no service account 'sa'",
        "cache_claim: the namespace team has no persistent volume claim 'models'",
        "priority_class: the cluster has no 'high'",
        "runtime_class: the cluster has no 'nvidia'",
        "a pod is more than the quota of the namespace team: q: requests.nvidia.com/gpu: 2 wanted, 1 of 1 free",
        "a pod is more than the namespace team allows: cpu: 4 wanted, at most 2500m",
        "maybe k8s/here.yaml: no node has room for a pod: 1 of 1 fit node_selector, node_affinity and tolerations; n1 has 1 "
        "nvidia.com/gpu; pods wait, unless the cluster adds one",
    ):
        assert part in found
    assert "AWS_SESSION_TOKEN" not in found
    assert not api.asked(f"POST {JOBS}")  # nothing to try where so much is wrong


def test_a_quota_that_is_used_up_is_a_warning(api: Api, site: Callable[..., KubernetesLauncher]) -> None:
    quota = {"hard": {"pods": "3", "count/jobs.batch": "9"}, "used": {"pods": "3", "count/jobs.batch": "3"}}
    api.add("/api/v1/namespaces/team/resourcequotas", {"metadata": {"name": "q"}, "status": quota})
    assert failing(site()) == [
        "maybe the quota of the namespace team is used up, pods wait until others end: q: pods: 1 wanted, 0 of 3 free"
    ]


@pytest.mark.parametrize(
    ("spec", "counts"),
    [
        ({}, True),
        ({"scopes": ["NotTerminating", "NotBestEffort"]}, True),
        ({"scopes": ["Terminating"]}, False),
        ({"scopes": ["BestEffort"]}, False),
        ({"scopes": ["PriorityClass"]}, True),
        ({"scopeSelector": {"matchExpressions": [priority("In", "high")]}}, False),
        ({"scopeSelector": {"matchExpressions": [priority("In", "high", "low")]}}, True),
        ({"scopeSelector": {"matchExpressions": [priority("DoesNotExist")]}}, False),
    ],
)
def test_a_quota_for_other_pods_does_not_count(
    api: Api, site: Callable[..., KubernetesLauncher], spec: dict[str, Any], counts: bool
) -> None:
    quota = {"metadata": {"name": "q"}, "spec": spec, "status": {"hard": {"requests.cpu": "500m"}}}
    api.add("/api/v1/namespaces/team/resourcequotas", quota)
    found = [text for text in failing(site(priority_class="low")) if "quota" in text]
    assert (
        found
        == ["a pod is more than the quota of the namespace team: q: requests.cpu: 4 wanted, 0.500 of 500m free"]
        * counts
    )


def test_what_one_may_not_look_at_is_a_warning(api: Api, site: Callable[..., KubernetesLauncher]) -> None:
    api.refused = {
        "GET /api/v1/nodes": 403,
        "GET /api/v1/namespaces/team/secrets": 403,
        "GET /api/v1/namespaces/team/resourcequotas": 403,
    }
    assert [text.partition(":")[0] for text in failing(site())] == [
        "maybe secret cefr-batch-store",
        "maybe quota",
        "maybe nodes with nvidia.com/gpu",
    ]


@pytest.mark.parametrize(
    ("settings", "fits"),
    [
        ({}, True),
        ({"node_selector": {"pool": "gpu"}}, True),
        ({"node_selector": {"pool": "other"}}, False),
        ({"tolerations": []}, False),
        ({"tolerations": [{"key": "nvidia.com/gpu", "value": "present"}]}, True),
        ({"tolerations": [{"key": "nvidia.com/gpu", "value": "absent"}]}, False),
        ({"tolerations": [{"operator": "Exists"}]}, True),
        ({"tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoExecute"}]}, False),
        ({"node_affinity": [{"key": "pool", "operator": "In", "values": ["a", "gpu"]}]}, True),
        ({"node_affinity": [{"key": "pool", "operator": "NotIn", "values": ["gpu"]}]}, False),
        ({"node_affinity": [{"key": "none", "operator": "NotIn", "values": ["gpu"]}]}, True),
        ({"node_affinity": [{"key": "pool", "operator": "Exists"}]}, True),
        ({"node_affinity": [{"key": "pool", "operator": "DoesNotExist"}]}, False),
        ({"node_affinity": [{"key": "nvidia.com/gpu.memory", "operator": "Lt", "values": ["23000"]}]}, False),
        ({"node_affinity": [{"key": "none", "operator": "Gt", "values": ["1"]}]}, False),
        ({"cpus": 9}, False),
        ({"gpu_resource": "amd.com/gpu"}, False),
    ],
)
def test_whether_a_node_has_room(
    api: Api, site: Callable[..., KubernetesLauncher], settings: dict[str, Any], fits: bool
) -> None:
    assert bool([text for text in failing(site(**settings)) if "no node has room" in text]) != fits


def test_a_namespace_or_a_cluster_that_is_not_there(api: Api, site: Callable[..., KubernetesLauncher]) -> None:
    (problem,) = failing(site(namespace="nowhere"))
    assert problem == "there is no namespace 'nowhere' in here: kubectl create namespace nowhere"
    (problem,) = failing(site(context="nowhere"))
    assert problem.startswith("k8s/here.yaml: the kubeconfig has no context 'nowhere'; valid: here, arn:")
    api.refused = {"POST /apis/batch": 422}
    (problem,) = failing(site())
    assert problem == "k8s/here.yaml: Kubernetes would refuse the Job: refused with 422"
    api.refused = {"GET /version": 401}
    (problem,) = failing(site())
    assert problem == "the API server of the context here does not accept the credentials; log in again"
    client._clusters.clear()
    api.port = 1  # nobody listens there
    api.write_kubeconfig()
    (problem,) = failing(site())
    assert "does not answer" in problem
    assert "refused" in problem
    api.kubeconfig.unlink()
    (problem,) = failing(site())
    assert "there is no kubeconfig with a current context" in problem


@pytest.mark.parametrize("text", ["a: [b", "hello", "contexts: [x]"])
def test_a_kubeconfig_that_is_damaged(api: Api, text: str) -> None:
    api.kubeconfig.write_text(text)
    with pytest.raises(ApiError, match=r"the kubeconfig .*kubeconfig cannot be read: .*; check KUBECONFIG$"):
        connect(None)


def test_a_kubeconfig_without_a_current_context_still_has_namespaces(api: Api) -> None:
    known = json.loads(api.kubeconfig.read_text())
    api.kubeconfig.write_text(json.dumps({key: known[key] for key in known if key != "current-context"}))
    assert connect("here").namespace == "team"
    with pytest.raises(ApiError, match=r"no kubeconfig with a current context; .*valid: here, arn:"):
        connect(None)


def test_who_comes_without_credentials_is_told_to_log_in() -> None:
    body = json.dumps({"message": 'pods is forbidden: User "system:anonymous" cannot list resource "pods"'})
    exc = SimpleNamespace(status=403, reason="Forbidden", body=body)
    assert _refusal("here", exc) == "the API server of the context here does not accept the credentials; log in again"
