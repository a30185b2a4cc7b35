"""The scheduler: what it asks of the API server, what it makes of refusals, and which faults of a site it finds. The API
server is a stand-in, the client the real one (tests/e2e/test_k8s.py has a real cluster)."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from support.api_stand_in import Api, running_api

from cefr_batch.errors import SchedulerError
from cefr_batch.runner.submission import start
from cefr_batch.schedulers import Job, JobGroup, JobSpec, State
from cefr_batch.schedulers.base import Check
from cefr_batch.schedulers.k8s.scheduler import KubernetesScheduler
from cefr_batch.store import own_keys
from cefr_batch.store.local import LocalStore

SITES = Path(__file__).parents[2] / "k8s"
STORE = "s3://bucket/prefix"
JOBS, PODS = "/apis/batch/v1/namespaces/team/jobs", "/api/v1/namespaces/team/pods"
RUNS = ("run-a", "run-b", "run-c")
GROUP = JobGroup(tuple(JobSpec(run, STORE) for run in RUNS), f"{STORE}/reports/run-a")


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aws: None) -> Iterator[Api]:
    with running_api(tmp_path / "kubeconfig") as found:
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(found.kubeconfig))
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        found.add("/api/v1/namespaces", {"metadata": {"name": "team"}})
        keys = {"AWS_ACCESS_KEY_ID": "eA==", "AWS_SECRET_ACCESS_KEY": "eA=="}
        found.add("/api/v1/namespaces/team/secrets", {"metadata": {"name": "cefr-batch-store"}, "data": keys})
        yield found


IMAGE = "r.example.org/cefr-batch:{version}-cuda"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., KubernetesScheduler]:
    """A scheduler with the default site, but for its image and what is given."""
    folder = tmp_path / "sites"
    folder.mkdir()
    monkeypatch.setenv("CEFR_BATCH_K8S", str(folder))
    (folder / "default.yaml").write_bytes((SITES / "default.yaml").read_bytes())

    def make(**more: object) -> KubernetesScheduler:
        (folder / "here.yaml").write_text(json.dumps({"extends": "default", "image": IMAGE, **more}))
        return KubernetesScheduler("here")

    return make


def failing(scheduler: KubernetesScheduler) -> list[str]:
    return [f"{'maybe ' if one.warning else ''}{one.problem}" for one in checks(scheduler) if one.problem]


def checks(scheduler: KubernetesScheduler) -> list[Check]:
    return scheduler.check(["peft"], STORE)


def finish(api: Api, run: str, condition: str) -> None:
    api.objects[f"{JOBS}/{run}"]["status"] = {"conditions": [{"type": condition, "status": "True"}]}


def test_a_batch_is_sent_as_it_was_rendered_and_its_handles_are_in_order(
    api: Api, site: Callable[..., KubernetesScheduler]
) -> None:
    scheduler = site()
    request = scheduler.render(GROUP)
    handles = scheduler.submit(request)
    names = (*RUNS, "run-a-report")
    uids = [api.objects[f"{JOBS}/{name}"]["metadata"]["uid"][:8] for name in names]
    assert handles == [f"k8s://here/team/{name}#{uid}" for name, uid in zip(names, uids, strict=True)]
    for rendered in request.objects:
        sent = api.objects[f"{JOBS}/{rendered['metadata']['name']}"]
        assert {**sent, "metadata": rendered["metadata"]} == rendered


def test_a_context_may_have_any_name(api: Api, site: Callable[..., KubernetesScheduler]) -> None:
    arn = "arn:aws:eks:eu-west-1:1:cluster/here"
    scheduler = site(context=arn)
    (handle,) = scheduler.submit(scheduler.render(JobGroup((JobSpec("run-a", STORE),))))
    assert handle == "k8s://arn%3Aaws%3Aeks%3Aeu-west-1%3A1%3Acluster%2Fhere/team/run-a#00000001"
    assert scheduler.observe([Job("run-a", handle)])[Job("run-a", handle)].state is State.PENDING


@pytest.mark.slow
def test_submitting_again_leaves_what_lives_and_replaces_what_has_ended(
    api: Api, site: Callable[..., KubernetesScheduler]
) -> None:
    scheduler = site()
    request = scheduler.render(GROUP)
    first = scheduler.submit(request)
    api.objects[f"{JOBS}/run-a"]["old"] = api.objects[f"{JOBS}/run-b"]["old"] = True
    finish(api, "run-b", "Failed")
    api.gone_after = 2  # a Job stays until its pods have ended
    again = scheduler.submit(request)
    assert [one.partition("#")[0] for one in again] == [one.partition("#")[0] for one in first]
    assert [one == before for one, before in zip(again, first, strict=True)] == [True, False, True, True]
    assert "old" in api.objects[f"{JOBS}/run-a"]
    assert "old" not in api.objects[f"{JOBS}/run-b"]
    assert [call.partition("?")[0] for call in api.asked("DELETE")] == [f"DELETE {JOBS}/run-b"]
    (options,) = api.deletions
    assert (options["propagationPolicy"], options["preconditions"]["uid"][:8]) == ("Foreground", first[1][-8:])


def test_a_job_of_another_store_is_not_touched(api: Api, site: Callable[..., KubernetesScheduler]) -> None:
    scheduler = site()
    scheduler.submit(scheduler.render(JobGroup((JobSpec("run-b", "s3://other"),))))
    with pytest.raises(
        SchedulerError,
        match=r"^Job run-b already exists in namespace team \(of the run of this name in the store s3://other\)\. If",
    ):
        scheduler.submit(scheduler.render(GROUP))
    assert [key for key in api.objects if key.startswith(JOBS)] == [f"{JOBS}/run-b"]  # run-a was taken back


def test_without_its_report_a_batch_is_started_all_the_same(
    api: Api, site: Callable[..., KubernetesScheduler], caplog: pytest.LogCaptureFixture
) -> None:
    api.add(JOBS, {"metadata": {"name": "run-a-report"}})
    scheduler = site()
    assert len(scheduler.submit(scheduler.render(GROUP))) == 3
    problem = "Job run-a-report already exists in namespace team (not created by cefr-batch)"
    assert f"no report will be written after the runs: {problem}" in caplog.text


def test_where_no_report_will_be_no_address_of_one_is_told(
    api: Api, site: Callable[..., KubernetesScheduler], tmp_path: Path
) -> None:
    store = LocalStore(tmp_path / "store")
    for taken, expected in ((False, True), (True, False)):
        if taken:
            api.objects = {f"{JOBS}/run-a-report": {"metadata": {"name": "run-a-report", "uid": "x"}}}
        submissions, reported = start(store, site(), GROUP)
        assert ([one.run for one in submissions], reported) == ([*RUNS], expected)


def test_two_requests_for_two_hundred_runs(api: Api, site: Callable[..., KubernetesScheduler]) -> None:
    scheduler = site()
    specs = tuple(JobSpec(f"run-{n}", STORE) for n in range(200))
    jobs = [
        Job(spec.run, handle)
        for spec, handle in zip(specs, scheduler.submit(scheduler.render(JobGroup(specs))), strict=True)
    ]
    finish(api, "run-7", "Complete")
    api.calls.clear()
    found = scheduler.observe(jobs)
    scheduler.observe(jobs)  # again at once, as when somebody watches: the API server is not asked every second
    assert [found[job].state for job in jobs[6:9]] == [State.PENDING, State.SUCCEEDED, State.PENDING]
    paths = [call.partition("?")[0] for call in api.calls]
    assert paths == [f"GET {JOBS}", f"GET {PODS}", "GET /api/v1/namespaces/team/events"]
    assert all("labelSelector=app.kubernetes.io/managed-by=cefr-batch" in unquote(call) for call in api.calls[:2])


def test_a_failing_api_server_does_not_end_a_run_and_a_missing_job_is_not_found(
    api: Api, site: Callable[..., KubernetesScheduler]
) -> None:
    (handle, *_) = site().submit(site().render(GROUP))
    job, strange = Job("run-a", handle), Job("run-z", "k8s://nowhere/team/run-z")
    for status in (500, 503, 429, 403, 401):
        api.refused = {"GET /apis": status}
        assert site().observe([job])[job].state is State.UNKNOWN
    api.refused = {}
    found = site().observe([job, strange, Job("x", "slurm://x/1")])
    assert [one.state for one in found.values()] == [State.UNKNOWN, State.PENDING, State.UNKNOWN]
    assert not any(one.not_found for one in found.values())
    assert "no context 'nowhere'; valid: here, arn:" in found[strange].reason
    api.objects.pop(f"{JOBS}/run-a")
    assert site().observe([job])[job].not_found


def test_the_pod_of_a_report_asks_its_own_cluster_and_knows_nothing_of_others(
    api: Api, site: Callable[..., KubernetesScheduler], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, *_ = site().submit(site().render(GROUP))
    finish(api, "run-a", "Failed")
    api.objects.pop(f"{JOBS}/run-b")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    jobs = [Job("run-a", first), Job("run-b", second)]
    assert {one.state for one in site().observe(jobs).values()} == {State.UNKNOWN}, "it has no token"

    def with_token(client_configuration: Any) -> None:
        client_configuration.host = f"http://127.0.0.1:{api.port}"

    monkeypatch.setattr("kubernetes.config.load_incluster_config", with_token)
    found = site().observe(jobs)
    assert [(one.state, one.not_found) for one in found.values()] == [(State.FAILED, False), (State.UNKNOWN, False)]
    assert "this pod's cluster has no such Job" in found[jobs[1]].reason
    with pytest.raises(SchedulerError, match="has no context 'here'"):
        site(context="here").cancel(jobs[:1], STORE)


def test_a_user_who_may_not_list_events_is_told_less_and_no_error(
    api: Api, site: Callable[..., KubernetesScheduler]
) -> None:
    (handle, *_) = site().submit(site().render(GROUP))
    api.refused = {"GET /api/v1/namespaces/team/events": 403}
    job = Job("run-a", handle)
    assert site().observe([job])[job].reason == "Pending in Kubernetes (no pod): its pod is not created yet"


def test_cancel_deletes_what_has_not_ended(api: Api, site: Callable[..., KubernetesScheduler]) -> None:
    scheduler = site()
    handles = scheduler.submit(scheduler.render(GROUP))
    finish(api, "run-b", "Complete")
    jobs = [Job(run, handle) for run, handle in zip(RUNS, handles, strict=False)]
    for _ in range(2):
        scheduler.cancel([*jobs, Job("run-z", "k8s://here/team/run-z")], STORE)
    assert sorted(key for key in api.objects if key.startswith(JOBS)) == [f"{JOBS}/run-a-report", f"{JOBS}/run-b"]
    again = scheduler.submit(scheduler.render(GROUP))
    api.refused = {"DELETE": 403}
    with pytest.raises(SchedulerError, match="refused with 403"):
        scheduler.cancel([Job("run-a", again[0])], STORE)


def test_of_jobs_in_several_namespaces_all_are_cancelled_or_none(
    api: Api, site: Callable[..., KubernetesScheduler]
) -> None:
    scheduler = site()
    (handle, *_) = scheduler.submit(scheduler.render(GROUP))
    api.refused = {"GET /apis/batch/v1/namespaces/other/jobs": 403}
    with pytest.raises(SchedulerError, match="refused with 403"):
        scheduler.cancel([Job("run-a", handle), Job("run-z", "k8s://here/other/run-z")], STORE)
    assert f"{JOBS}/run-a" in api.objects


@pytest.mark.parametrize("mode", ["jobs", "indexed"])
@pytest.mark.parametrize("of", ["another run", "another store", "the report"])
def test_a_job_that_is_not_the_run_s_is_not_deleted(
    api: Api, site: Callable[..., KubernetesScheduler], mode: str, of: str
) -> None:
    """As with an edited submission.json, or a namespace that several stores share."""
    scheduler = site(job_mode=mode)
    handles = scheduler.submit(scheduler.render(GROUP))
    handle = {"another run": handles[1], "another store": handles[0], "the report": handles[-1]}[of]
    before = set(api.objects)
    with pytest.raises(SchedulerError, match=r"is not the one of run-a in the store .*, so it was not cancelled"):
        scheduler.cancel([Job("run-a", handle)], "s3://bucket/other" if of == "another store" else STORE)
    assert set(api.objects) == before


def test_runs_of_an_indexed_job_are_cancelled_together_only(api: Api, site: Callable[..., KubernetesScheduler]) -> None:
    scheduler = site(job_mode="indexed")
    handles = scheduler.submit(scheduler.render(JobGroup(GROUP.jobs)))
    (job,) = [key.removeprefix(f"{JOBS}/") for key in api.objects if key.startswith(JOBS)]
    assert job.startswith("run-a-and-2-")
    assert handles == [f"k8s://here/team/{job}/{n}#00000001" for n in range(3)]
    jobs = [Job(run, handle) for run, handle in zip(RUNS, handles, strict=True)]
    with pytest.raises(SchedulerError, match="can only be cancelled together; name all of them"):
        scheduler.cancel(jobs[:2], STORE)
    scheduler.cancel(jobs, STORE)
    assert not [key for key in api.objects if key.startswith(JOBS)]


def test_runs_of_an_indexed_job_that_have_ended_need_not_be_named(
    api: Api, site: Callable[..., KubernetesScheduler]
) -> None:
    scheduler = site(job_mode="indexed")
    handles = scheduler.submit(scheduler.render(JobGroup(GROUP.jobs)))
    (job,) = [key for key in api.objects if key.startswith(JOBS)]
    api.objects[job]["status"] = {"completedIndexes": "0", "failedIndexes": "2"}
    scheduler.cancel([Job("run-b", handles[1])], STORE)
    assert not [key for key in api.objects if key.startswith(JOBS)]


@pytest.mark.parametrize("before", ["Failed", "deleted"])
def test_what_was_seen_of_a_job_is_not_said_of_its_successor(
    api: Api, site: Callable[..., KubernetesScheduler], before: str
) -> None:
    scheduler, spec = site(), JobSpec("run-a", STORE)
    (handle,) = scheduler.submit(scheduler.render(JobGroup((spec,))))
    job = Job("run-a", handle)
    finish(api, "run-a", "Failed")
    if before == "deleted":
        del api.objects[f"{JOBS}/run-a"]
    other = site()  # of another process, or of `search`, which submits through one and asks another
    assert all(one.observe([job])[job].state is not State.PENDING for one in (scheduler, other))
    (handle,) = scheduler.submit(scheduler.render(JobGroup((spec,))))  # at once, as `resume --wait` does
    job = Job("run-a", handle)
    assert all(one.observe([job])[job].state is State.PENDING for one in (scheduler, other))
    scheduler.cancel([job], STORE)
    assert scheduler.observe([job])[job].not_found


def test_a_job_of_the_same_name_that_another_store_has_is_not_this_run_s(
    api: Api, site: Callable[..., KubernetesScheduler]
) -> None:
    """Two stores name their runs alike, and share a namespace: when one's Job has ended and is gone, the other's comes."""
    handles = []
    for store in (STORE, "s3://other"):
        api.objects.pop(f"{JOBS}/run-a", None)
        handles += site().submit(site().render(JobGroup((JobSpec("run-a", store),))))
    ours, theirs, of_0_1_0 = (Job("run-a", one) for one in (*handles, "k8s://here/team/run-a"))
    owner = {"kind": "Job", "name": "run-a", "uid": api.objects[f"{JOBS}/run-a"]["metadata"]["uid"]}
    created = {"creationTimestamp": "2026-11-22T18:00:00Z"}
    api.add(PODS, {"metadata": {"name": "p", "uid": "p", "ownerReferences": [owner], **created}})
    api.objects[f"{PODS}/p/log"] = "theirs"  # type: ignore[assignment]
    found = site().observe([ours, theirs, of_0_1_0])
    assert [(one.state, one.not_found) for one in found.values()] == [
        (State.UNKNOWN, True), (State.PENDING, False), (State.PENDING, False),
    ]  # fmt: skip
    assert [site().tail_log(job, STORE) for job in (ours, theirs, of_0_1_0)] == ["", "theirs", "theirs"]


def test_a_job_that_was_replaced_meanwhile_is_not_deleted(api: Api, site: Callable[..., KubernetesScheduler]) -> None:
    scheduler = site()
    (handle,) = scheduler.submit(scheduler.render(JobGroup((JobSpec("run-a", STORE),))))
    api.replaced_before_deletion = True
    with pytest.raises(SchedulerError, match=r"UID in precondition"):
        scheduler.cancel([Job("run-a", handle)], STORE)
    assert f"{JOBS}/run-a" in api.objects


@pytest.mark.parametrize("mode", ["jobs", "indexed"])
def test_the_pod_of_a_lost_node_is_deleted_by_its_uid_and_no_other(
    api: Api, site: Callable[..., KubernetesScheduler], mode: str
) -> None:
    """What `resume --force` does before it starts the run again: its Job then makes another pod."""
    scheduler = site(job_mode=mode)
    handles = scheduler.submit(scheduler.render(JobGroup(GROUP.jobs)))
    jobs = [Job(run, handle) for run, handle in zip(RUNS, handles, strict=True)]
    long_ago = {"deletionTimestamp": "2026-11-22T18:00:00Z", "creationTimestamp": "2026-11-22T17:00:00Z"}
    for number, run in enumerate(RUNS):
        (of,) = {
            one.handle.rpartition("team/")[2].partition("#")[0].partition("/")[0] for one in jobs[number : number + 1]
        }
        index = {"annotations": {"batch.kubernetes.io/job-completion-index": str(number)}} if mode == "indexed" else {}
        owner = {"kind": "Job", "name": of, "uid": api.objects[f"{JOBS}/{of}"]["metadata"]["uid"]}
        metadata = {"name": f"{run}-p", "uid": f"uid-of-{run}", "ownerReferences": [owner], **index, **long_ago}
        api.add(PODS, {"metadata": metadata, "spec": {"nodeName": "n1"}, "status": {"phase": "Running"}})
    found = scheduler.observe(jobs)
    assert {one.state for one in found.values()} == {State.UNKNOWN}
    assert "its pod run-b-p had to stop by 2026-11-22T18:00:00Z, and its node n1" in found[jobs[1]].reason
    with pytest.raises(
        SchedulerError, match=r"is not the one of run-b in the store s3://other, so its pod was not deleted"
    ):
        scheduler.release([jobs[1]], "s3://other")
    api.refused = {f"DELETE {PODS}": 403}
    with pytest.raises(SchedulerError, match=r"kubectl delete pod run-b-p --namespace team --grace-period=0 --force"):
        scheduler.release([jobs[1]], STORE)
    api.refused = {}
    scheduler.release([jobs[1]], STORE)
    assert [key for key in api.objects if key.startswith(PODS)] == [f"{PODS}/run-a-p", f"{PODS}/run-c-p"]
    assert api.deletions == [
        {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": "uid-of-run-b"}, "gracePeriodSeconds": 0}
    ]
    assert scheduler.observe(jobs)[jobs[1]].state is State.PENDING
    if mode == "jobs":
        assert scheduler.submit(scheduler.render(JobGroup(GROUP.jobs[1:2]))) == [jobs[1].handle], "its Job goes on"


def test_events_are_asked_of_our_objects_one_by_one_while_they_are_few(
    api: Api, site: Callable[..., KubernetesScheduler]
) -> None:
    """A namespace may have thousands of other teams' events."""
    scheduler = site()
    handles = scheduler.submit(scheduler.render(JobGroup(GROUP.jobs)))
    jobs = [Job(run, handle) for run, handle in zip(RUNS, handles, strict=True)]
    for number, run in enumerate((*RUNS, "theirs")):
        uid = api.objects.get(f"{JOBS}/{run}", {"metadata": {"uid": "x"}})["metadata"]["uid"]
        about = {"involvedObject": {"kind": "Job", "uid": uid}, "reason": "FailedCreate", "message": f"of {run}"}
        api.add("/api/v1/namespaces/team/events", {"metadata": {"name": f"e{number}"}, "type": "Warning", **about})
    found = scheduler.observe(jobs)
    assert [f"FailedCreate: of {job.run}" in found[job].reason for job in jobs] == [True] * 3
    asked = [unquote(call) for call in api.asked("GET /api/v1/namespaces/team/events")]
    assert len(asked) == 3
    assert all("involvedObject.uid=" in call for call in asked)


def test_the_output_of_many_runs_takes_one_list_of_pods(api: Api, site: Callable[..., KubernetesScheduler]) -> None:
    scheduler = site()
    handles = scheduler.submit(scheduler.render(GROUP))
    api.calls.clear()
    for run, handle in zip(RUNS, handles, strict=False):
        scheduler.tail_log(Job(run, handle), STORE)
    assert len(api.asked(f"GET {PODS}?")) == 1


def test_what_kueue_says_of_a_job_is_told_where_one_may_read_it(
    api: Api, site: Callable[..., KubernetesScheduler]
) -> None:
    api.kueue = True
    scheduler = site(queue="gpus", job_mode="indexed")
    handles = scheduler.submit(scheduler.render(JobGroup(GROUP.jobs)))
    assert [handle.rpartition("#")[0] for handle in handles] == [f"k8s://here/team/{run}" for run in RUNS], "a Job each"
    job = api.objects[f"{JOBS}/run-a"]
    job["status"] = {"conditions": [{"type": "Suspended", "status": "True", "message": "Job suspended"}]}
    words = {"type": "QuotaReserved", "status": "False", "message": "insufficient quota"}
    owner = {"ownerReferences": [{"uid": job["metadata"]["uid"]}]}
    path = "/apis/kueue.x-k8s.io/v1beta1/namespaces/team/workloads"
    api.add(path, {"metadata": {"name": "w", **owner}, "status": {"conditions": [words]}})
    asked = Job("run-a", handles[0])
    assert scheduler.observe([asked])[asked].reason.endswith(
        "its queue gpus has not admitted it yet: insufficient quota"
    )
    api.refused = {f"GET {path}": 403}
    assert site().observe([asked])[asked].reason.endswith("its queue gpus has not admitted it yet: Job suspended")


def test_the_last_output_is_the_newest_pods(api: Api, site: Callable[..., KubernetesScheduler]) -> None:
    for number, log in enumerate(("old", "new")):
        created = f"2026-11-22T18:00:0{number}Z"
        labels = {"job-name": "run-a"}
        api.add(PODS, {"metadata": {"name": f"p{number}", "labels": labels, "creationTimestamp": created}})
        api.objects[f"{PODS}/p{number}/log"] = log  # type: ignore[assignment]
    job = Job("run-a", "k8s://here/team/run-a")
    assert site().tail_log(job, STORE) == "new"
    api.refused = {f"GET {PODS}/p1/log": 400}  # its container was never started
    assert site().tail_log(job, STORE) == ""


def test_the_checks_of_a_site_without_fault(api: Api, site: Callable[..., KubernetesScheduler]) -> None:
    """Dry runs of everything that is sent, and of the pod that the Job's controller would create; nothing is left."""
    scheduler = site()
    found = checks(scheduler)
    assert [one for one in found if one.problem] == []
    assert [one.what for one in found] == [
        "context here", "namespace team", "permissions", "secret cefr-batch-store", "dry run of the Jobs",
        "dry run of a pod",
    ]  # fmt: skip
    created = [call for call in api.asked("POST") if "reviews" not in call]
    assert created == [*[f"POST {JOBS}?dryRun=All"] * 3, f"POST {PODS}?dryRun=All"]
    assert not [key for key in api.objects if key.startswith((JOBS, PODS))]


def test_a_job_without_a_gpu_that_still_wants_gpu_nodes_is_a_warning(
    api: Api, site: Callable[..., KubernetesScheduler]
) -> None:
    (told,) = (one for one in checks(site(storage_secret="cefr-batch-store", gpus=0)) if one.what == "nodes")
    assert "gpus is 0, but jobs are still limited to nodes with nvidia.com/gpu.memory" in told.problem
    assert not told.refuses
    assert not [one for one in checks(site(gpus=0, node_affinity=[])) if one.what == "nodes"]


def test_an_image_without_a_registry_is_a_warning(api: Api, site: Callable[..., KubernetesScheduler]) -> None:
    (told,) = failing(site(image="cefr-batch:{version}-cuda"))
    assert told.startswith("maybe k8s/here.yaml: image: cefr-batch:")
    assert "names no registry, so nodes cannot pull it; push the image to a registry" in told
    assert failing(site(image="cefr-batch:{version}-cuda", image_pull_policy="Never")) == []
    assert failing(site(image="my-team/cefr-batch:{version}-cuda")) == []


def test_everything_that_is_wrong_is_named_at_once(api: Api, site: Callable[..., KubernetesScheduler]) -> None:
    api.forbidden = {"create jobs", "get pods/log"}
    scheduler = site(
        storage_secret="keys", hub_secret="cefr-batch-store", image_pull_secrets=["pull"], service_account="sa",
        report_account="reporter", cache_claim="models", priority_class="high", runtime_class="nvidia",
    )  # fmt: skip
    found = "\n".join(failing(scheduler))
    for part in (
        "in the namespace team you may not create jobs, get pods/log: the namespace may be the wrong one (`kubectl config "
        "view --minify` shows the context's); if it is right, ask your cluster's administrators for the Role in "
        "k8s/base/submitter.yaml",
        "k8s/here.yaml: the namespace team has no Secret keys; with the keys in your shell, create it: kubectl create "
        'secret generic keys --namespace team --from-literal=AWS_ACCESS_KEY_ID="$AWS_ACCESS_KEY_ID" '
        "--from-literal=AWS_SECRET_ACCESS_KEY",
        "the Secret cefr-batch-store has no HF_TOKEN",
        "image_pull_secrets: the namespace team has no secret pull; create it, or correct the setting",
        "service_account: the namespace team has no service account sa",
        "report_account: the namespace team has no service account reporter",
        "cache_claim: the namespace team has no persistent volume claim models",
        "priority_class: the cluster has no priority class high",
        "runtime_class: the cluster has no runtime class nvidia",
    ):
        assert part in found
    assert "AWS_SESSION_TOKEN" not in found
    assert not api.asked(f"POST {JOBS}"), "who may not create Jobs would be told the same again"


REFUSALS = {  # path, status, message of the server → what is said
    "validation": (
        JOBS, 422, 'Job.batch "x" is invalid: spec.parallelism',
        "k8s/here.yaml: Kubernetes would refuse it (dry run of the Jobs): Job.batch",
    ),
    "quota of Jobs": (
        JOBS, 403, 'jobs.batch "x" is forbidden: exceeded quota: q, requested: count/jobs.batch=1',
        "k8s/here.yaml: Kubernetes would refuse it (dry run of the Jobs): jobs.batch",
    ),
    "quota of pods": (
        PODS, 403, 'pods "x" is forbidden: exceeded quota: q, requested: requests.nvidia.com/gpu=2, used: 0, limited: 1',
        "maybe k8s/here.yaml: a pod has to wait until the quota of the namespace team has room: pods",
    ),
    "limit range": (
        PODS, 403, 'pods "x" is forbidden: maximum cpu usage per Container is 2500m, but limit is 4',
        "k8s/here.yaml: Kubernetes would refuse it (dry run of a pod): pods",
    ),
    "webhook": (
        PODS, 400, "admission webhook w does not support dry run", "maybe dry run of a pod: not checked: admission webhook",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_what_the_server_would_refuse_is_told_in_its_words(
    api: Api, site: Callable[..., KubernetesScheduler], case: str
) -> None:
    path, status, message, expected = REFUSALS[case]
    api.refused = {f"POST {path}": (status, message)}
    (problem,) = failing(site())
    assert problem.startswith(expected.removeprefix("maybe ") if not expected.startswith("maybe") else expected)
    assert message in problem


@pytest.mark.parametrize(
    ("dropped", "mode", "problem"),
    [
        ({"completionMode", "backoffLimitPerIndex"}, "indexed", "spec.backoffLimitPerIndex; set job_mode: jobs"),
        ({"activeDeadlineSeconds"}, "jobs", "spec.activeDeadlineSeconds; use a newer cluster"),
    ],
)
def test_a_server_that_drops_what_jobs_need_is_refused(
    api: Api, site: Callable[..., KubernetesScheduler], dropped: set[str], mode: str, problem: str
) -> None:
    """It says that all is well: an Indexed Job would be seven pods of which none knows its level."""
    api.dropped = dropped
    (found,) = [one for one in checks(site(job_mode=mode)) if one.what == "dry run of the Jobs"]
    assert found.problem.startswith("k8s/here.yaml: the server (Kubernetes v1.33.0) would accept the Jobs, but drop")
    assert problem in found.problem


def test_what_an_older_server_drops_is_a_warning_where_it_costs_the_user_something(
    api: Api, site: Callable[..., KubernetesScheduler]
) -> None:
    """Not that a pod may start while another one stops: its job waits until that has stored its checkpoint."""
    api.dropped = {"podFailurePolicy", "podReplacementPolicy", "ttlSecondsAfterFinished"}
    found = {one.what: one for one in checks(site())}
    whole = found["dry run of the Jobs"]
    assert (whole.problem, whole.note) == (
        "",
        "Kubernetes v1.33.0 has no spec.podReplacementPolicy, which jobs can do without",
    )
    assert [one.what for one in found.values() if one.problem] == [
        "spec.podFailurePolicy",
        "spec.ttlSecondsAfterFinished",
    ]
    assert not any(one.refuses for one in found.values())
    assert found["spec.podFailurePolicy"].problem.startswith(
        "spec.podFailurePolicy: Kubernetes v1.33.0 does not have it, so a pod that is evicted counts as a failed one"
    )
    assert "kubectl delete job" in found["spec.ttlSecondsAfterFinished"].problem
    assert "checkpoint" not in "".join(one.problem + one.note for one in found.values())


def test_what_the_cluster_changes_is_a_warning(api: Api, site: Callable[..., KubernetesScheduler]) -> None:
    api.changed = {"backoffLimit": 1}
    (problem,) = failing(site())
    assert problem == (
        "maybe k8s/here.yaml: the cluster changes what is sent: spec.backoffLimit from 6 to 1; see its admission webhooks"
    )


QUEUES: dict[str, tuple[bool, dict[str, object] | None, str]] = {
    "no Kueue": (False, None, "queue: 'gpus' would be a queue of Kueue, which the cluster does not have"),
    "no such queue": (True, None, "queue: the namespace team has no LocalQueue gpus; `kubectl get localqueues"),
    "stopped": (
        True,
        {"spec": {"stopPolicy": "Hold"}},
        "queue: gpus is stopped (stopPolicy: Hold), so no Job would start",
    ),
    "inactive": (
        True,
        {"status": {"conditions": [{"type": "Active", "status": "False", "message": "ClusterQueue is missing"}]}},
        "queue: gpus admits no Jobs: ClusterQueue is missing",
    ),
    "good": (True, {"spec": {}, "status": {"conditions": [{"type": "Active", "status": "True"}]}}, ""),
}


@pytest.mark.parametrize("case", QUEUES)
def test_a_queue_is_looked_up_before_submitting(api: Api, site: Callable[..., KubernetesScheduler], case: str) -> None:
    api.kueue, queue, said = QUEUES[case]
    if queue is not None:
        api.add("/apis/kueue.x-k8s.io/v1beta1/namespaces/team/localqueues", {"metadata": {"name": "gpus"}, **queue})
    found = failing(site(queue="gpus"))
    assert [said in problem for problem in found] == [True] * bool(said)


def test_who_may_not_create_pods_is_told_of_quotas_by_status_instead(
    api: Api, site: Callable[..., KubernetesScheduler]
) -> None:
    api.forbidden = {"create pods"}
    scheduler = site()
    assert failing(scheduler) == []
    assert checks(scheduler)[-1].note == "skipped, since you may not create pods; status says if one cannot be created"
    assert not api.asked(f"POST {PODS}")
    (handle,) = scheduler.submit(scheduler.render(JobGroup((JobSpec("run-a", STORE),))))
    message = 'pods "run-a-x" is forbidden: exceeded quota: q'
    uid = api.objects[f"{JOBS}/run-a"]["metadata"]["uid"]
    event = {"involvedObject": {"kind": "Job", "uid": uid}, "reason": "FailedCreate", "message": message}
    api.add("/api/v1/namespaces/team/events", {"metadata": {"name": "e"}, "type": "Warning", **event})
    observed = scheduler.observe([Job("run-a", handle)])[Job("run-a", handle)]
    assert (observed.state, message in observed.reason) == (State.PENDING, True)


def test_what_one_may_not_read_is_a_warning(api: Api, site: Callable[..., KubernetesScheduler]) -> None:
    api.refused = {
        "GET /api/v1/namespaces/team/secrets": 403,
        "GET /apis/scheduling.k8s.io/v1/priorityclasses/high": 403,
        "GET /api/v1/namespaces/team": 403,
    }
    found = checks(site(priority_class="high"))
    assert [(one.what, one.warning) for one in found if one.problem] == [
        ("secret cefr-batch-store", True),
        ("priority class high", True),
    ]
    assert found[1].note == "you may not read it, but you have the rights in it that jobs need"


def test_a_namespace_that_one_may_not_see_and_has_no_rights_in_may_be_the_wrong_one(
    api: Api, site: Callable[..., KubernetesScheduler]
) -> None:
    api.refused, api.forbidden = {"GET /api/v1/namespaces/tame": 403}, {"create jobs", "list pods"}
    _, namespace, permissions, *_ = checks(site(namespace="tame"))
    assert (namespace.warning, namespace.problem) == (
        True,
        "namespace tame: not checked, since you may not read namespaces",
    )
    assert permissions.refuses
    assert permissions.problem.startswith(
        "in the namespace tame you may not create jobs, list pods: the namespace may be the wrong one (`namespace` in "
        "k8s/here.yaml names it; `kubectl config view --minify` shows the context's); if it is right, ask your"
    )
    api.refused = {"GET /api/v1/namespaces/team": 403}
    told = checks(site())[2].problem
    assert "the namespace may be the wrong one (`kubectl config view --minify` shows the context's); if it is" in told


ID, SECRET, TOKEN = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"
SHELL = {ID: "AKIAHERE", SECRET: "a-secret-of-this-shell", TOKEN: "a-token-of-this-shell"}
NOT_TRIED = "its keys are not this shell's, and were not tried"
IN_SECRET = "in the Secret cefr-batch-store"
KEYS: dict[str, tuple[set[str], dict[str, str], str]] = {  # what the shell has, what differs in the Secret, what is said
    "equal": ({ID, SECRET}, {}, ""),
    "equal, with a token": ({ID, SECRET, TOKEN}, {}, ""),
    "of somebody else": ({ID, SECRET}, {ID: "AKIATHERE", SECRET: "another"}, NOT_TRIED),
    "none in the shell": (set(), {}, NOT_TRIED),
    "mistyped": ({ID, SECRET}, {SECRET: "another"}, f"the {ID} of this shell, but not its {SECRET};"),
    "without the token": ({ID, SECRET, TOKEN}, {TOKEN: ""}, f"the {ID} of this shell, but not its {TOKEN};"),
    "echo": ({ID, SECRET}, {SECRET: SHELL[SECRET] + "\n"}, f"the {SECRET} {IN_SECRET} ends with a line break"),
    "echo, of the id": ({ID, SECRET}, {ID: SHELL[ID] + "\n"}, f"the {ID} {IN_SECRET} ends with a line break"),
    "exchanged": ({ID, SECRET}, {ID: SHELL[SECRET], SECRET: SHELL[ID]}, f"the values of {ID} and {SECRET} are exchanged"),
    "a space": (set(), {SECRET: " another"}, "begins or ends with a space or a line break"),
}  # fmt: skip


@pytest.mark.parametrize("case", KEYS)
def test_the_keys_in_the_stores_secret_are_compared_with_those_of_this_shell_and_never_shown(
    api: Api,
    site: Callable[..., KubernetesScheduler],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    case: str,
) -> None:
    caplog.set_level("DEBUG")
    has, other, said = KEYS[case]
    for name, value in SHELL.items():
        monkeypatch.setenv(name, value) if name in has else monkeypatch.delenv(name, raising=False)
    held = {**{name: value for name, value in SHELL.items() if name in (has or {ID, SECRET})}, **other}
    data = {name: b64encode(value.encode()).decode() for name, value in held.items()}
    api.add("/api/v1/namespaces/team/secrets", {"metadata": {"name": "cefr-batch-store"}, "data": data})
    found = checks(site())
    (told,) = [one for one in found if one.what == "secret cefr-batch-store"]
    if said in ("", NOT_TRIED):
        assert not told.problem
        assert told.note == "; ".join(filter(None, (f"{ID}, {SECRET}", said)))
    else:
        assert told.refuses
        assert said in told.problem
        assert (f'--from-literal={TOKEN}="${TOKEN}"' in told.problem) == (TOKEN in has)
    everything = f"{found} {caplog.text} {own_keys(STORE)!r}"
    for value in filter(None, (*SHELL.values(), *data.values(), *(one.strip() for one in held.values()))):
        assert value not in everything


def test_a_hub_token_with_a_line_break_is_the_librarys_business(
    api: Api, site: Callable[..., KubernetesScheduler]
) -> None:
    """It takes it off."""
    data = {"HF_TOKEN": b64encode(b"hf_x\n").decode()}
    api.add("/api/v1/namespaces/team/secrets", {"metadata": {"name": "hub"}, "data": data})
    assert failing(site(hub_secret="hub")) == []


def test_unsloth_where_the_image_lacks_it_is_told_before_pods_find_out(
    api: Api, site: Callable[..., KubernetesScheduler]
) -> None:
    def of_backend(backend: str = "unsloth", **settings: object) -> list[Check]:
        found = site(node_affinity=[], **settings).check([backend], STORE)
        return [one for one in found if one.what == "backend unsloth"]

    for image in ("r.example.org/cefr-batch:{version}-cpu", "r:5000/cefr-batch-cpu", f"r/c:1-cpu@sha256:{'0' * 64}"):
        for gpus in (0, 1):
            (told,) = of_backend(image=image, gpus=gpus)
            assert told.refuses
            assert told.opinion, "an image of one's own may have any name"
            assert "has the name of an image for CPUs, which has no Unsloth" in told.problem
            assert "set `backend: peft` in the site file, or --set backend=peft, or name an image" in told.problem
        assert of_backend("peft", image=image) == []
    (told,) = of_backend(gpus=0)
    assert told.warning, "Unsloth trains on the CPU, too, where it is installed"
    assert told.problem.startswith(
        "k8s/here.yaml: image: jobs get no GPU and would train with Unsloth, which r.example.org/cefr-batch:"
    )
    assert of_backend("peft", gpus=0) == []
    assert of_backend() == []
    assert of_backend(image="cpu.example.org/team-cpu/cefr-batch:1-cpux") == []


def test_a_namespace_or_a_cluster_that_is_not_there(api: Api, site: Callable[..., KubernetesScheduler]) -> None:
    (problem,) = failing(site(namespace="nowhere"))
    assert problem == (
        "the cluster of the context here has no namespace 'nowhere': create it (kubectl create namespace nowhere), or "
        "correct `namespace` in k8s/here.yaml"
    )
    (problem,) = failing(site(context="nowhere"))
    assert problem.startswith("k8s/here.yaml: the kubeconfig has no context 'nowhere'; valid: here, arn:")
    api.refused = {"GET /version": 401}
    (problem,) = failing(site())
    refused = "the API server of the context here does not accept the credentials"
    assert problem == f"{refused}; log in again, or check the credentials in the kubeconfig"
    api.port = 1  # nobody listens there
    api.write_kubeconfig()
    (problem,) = failing(site())
    assert "cannot be reached: " in problem
    assert "refused; check the network" in problem
    api.kubeconfig.unlink()
    (problem,) = failing(site())
    assert "no kubeconfig was found, or it has no contexts; set KUBECONFIG" in problem
