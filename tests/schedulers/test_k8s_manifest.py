"""Manifests: whole ones for the sites that ship, valid for the newest API and the four before, safe by each rule of the
restricted Pod Security Standard, and every setting arrives as it is."""

from __future__ import annotations

import copy
import json
import re
import runpy
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from support.goldens import same_as_golden
from support.pod_security import RULES, violations

from cefr_batch.config.schema import NotifySpec
from cefr_batch.errors import EXIT_INTERRUPTED, SchedulerError, UsageError
from cefr_batch.records import layout
from cefr_batch.schedulers import JobGroup, JobSpec
from cefr_batch.schedulers.k8s.manifest import QUEUE, STORE, JobName, literal, render, short_name, to_yaml
from cefr_batch.schedulers.k8s.site import KubernetesSite, load_site
from cefr_batch.schedulers.sites import SCHEDULER, SITE_NOTIFY
from cefr_batch.store import below

ROOT = Path(__file__).parents[2]
SITES = ROOT / "k8s"
NAMES = sorted(path.stem for path in SITES.glob("*.yaml"))
STORE_URL = "s3://bucket/prefix?endpoint_url=https://s3.example.org"
ONE = JobGroup((JobSpec("llama1b-b1-unsloth-v1", STORE_URL),))
THREE = JobGroup(
    tuple(JobSpec(f"llama1b-{level}-unsloth-v1", STORE_URL) for level in ("a1", "a2", "b1")),
    below(STORE_URL, "reports/llama1b-a1-unsloth-v1"),
)
SCHEMAS_BACK = 5  # the newest minor version of the API and the four before
GOOD = {name: load_site(name).model_dump() for name in NAMES}  # read once: hypothesis wants it fast

Object = dict[str, Any]
Mutation = Callable[[Object], Any]


def site_named(name: str, **more: Any) -> KubernetesSite:
    site = KubernetesSite.model_validate({**GOOD[name], **more})
    if broken := list(site.broken_rules()):
        raise ValueError(broken)
    return site


def pod_of(job: Object) -> Object:
    template: Object = job["spec"]["template"]
    return template


def container_of(job: Object) -> Object:
    (container,) = pod_of(job)["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def test_the_sites_that_ship_are_known() -> None:
    assert NAMES == ["default", "eks-g5", "gke-l4", "onprem-rtx4090"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("group", [ONE, THREE], ids=["one", "three"])
def test_the_request_of_a_site_is_the_golden_one(name: str, group: JobGroup) -> None:
    request = render(site_named(name), group)
    same_as_golden(f"k8s-{name}-{len(group.jobs)}.yaml", request.yaml())
    assert tuple(yaml.safe_load_all(request.yaml())) == request.objects


# Valid.


def schema_versions() -> list[str]:
    """The newest patch version of each of the newest minor versions that the library has schemas for."""
    from kubernetes_validate.utils import all_versions, major_minor

    newest = {major_minor(version): version for version in all_versions()}
    return list(newest.values())[-SCHEMAS_BACK:]


def validate(item: Object, version: str) -> None:
    import kubernetes_validate

    kubernetes_validate.validate(item, version, strict=True)


def all_objects() -> Iterator[tuple[str, Object]]:
    """Every object that is ever sent or shipped."""
    for name in NAMES:
        for way in ("jobs", "indexed"):
            for group in (ONE, THREE):
                for item in render(site_named(name, job_mode=way), group).objects:
                    yield f"{name}-{way}-{len(group.jobs)}-{item['metadata']['name']}", item
    for path in sorted((SITES / "base").glob("*.yaml")):
        if path.name not in ("kustomization.yaml", "settings.yaml"):
            for item in yaml.safe_load_all(path.read_text(encoding="utf-8")):
                yield f"base-{path.stem}-{item['kind']}", item


@pytest.mark.slow
@pytest.mark.parametrize("back", range(SCHEMAS_BACK))
def test_every_object_is_strictly_valid_for_the_newest_api_and_the_four_before(back: int) -> None:
    version = schema_versions()[-1 - back]
    objects = dict(all_objects())
    under_queue = 2  # more than an Indexed Job, at the one site that has a queue
    assert len(objects) == 4 * (1 + 4 + 1 + 2) + under_queue + 8, sorted(objects)
    for item in objects.values():
        validate(item, version)


def test_the_schema_is_strict() -> None:
    """The library does find a field that is misspelled, and a value of the wrong type."""
    from kubernetes_validate import ValidationError

    (job,) = render(site_named("default"), ONE).objects
    mutations: list[Mutation] = [
        lambda job: job["spec"].update(backofLimit=1),
        lambda job: job["spec"].update(backoffLimit="1"),
        lambda job: container_of(job).pop("name"),
    ]
    for mutate in mutations:
        broken = copy.deepcopy(job)
        mutate(broken)
        with pytest.raises(ValidationError):
            validate(broken, schema_versions()[-1])


# The restricted Pod Security Standard.


def context(pod: Object) -> Object:
    found: Object = pod["spec"]["containers"][0]["securityContext"]
    return found


MUTATIONS: dict[str, list[Mutation]] = {
    "host_process": [lambda pod: pod["spec"]["securityContext"].update(windowsOptions={"hostProcess": True})],
    "host_namespaces": [
        lambda pod: pod["spec"].update(hostNetwork=True),
        lambda pod: pod["spec"].update(hostPID=True),
        lambda pod: pod["spec"].update(hostIPC=True),
    ],
    "privileged": [lambda pod: context(pod).update(privileged=True)],
    "capabilities": [
        lambda pod: context(pod).pop("capabilities"),
        lambda pod: context(pod)["capabilities"].update(drop=["NET_RAW"]),
        lambda pod: context(pod)["capabilities"].update(add=["SYS_ADMIN"]),
    ],
    "volume_types": [
        lambda pod: pod["spec"]["volumes"].append({"name": "host", "hostPath": {"path": "/var"}}),
        lambda pod: pod["spec"]["volumes"].append({"name": "disk", "nfs": {"server": "s", "path": "/"}}),
    ],
    "host_ports": [lambda pod: pod["spec"]["containers"][0].update(ports=[{"containerPort": 1, "hostPort": 1}])],
    "host_probes": [
        lambda pod: pod["spec"]["containers"][0].update(livenessProbe={"httpGet": {"host": "10.0.0.1", "port": 1}})
    ],
    "app_armor": [
        lambda pod: context(pod).update(appArmorProfile={"type": "Unconfined"}),
        lambda pod: pod["metadata"].update(
            annotations={"container.apparmor.security.beta.kubernetes.io/cefr-batch": "unconfined"}
        ),
    ],
    "selinux": [
        lambda pod: context(pod).update(seLinuxOptions={"type": "spc_t"}),
        lambda pod: pod["spec"]["securityContext"].update(seLinuxOptions={"user": "system_u"}),
        lambda pod: pod["spec"]["securityContext"].update(seLinuxOptions={"role": "system_r"}),
    ],
    "proc_mount": [lambda pod: context(pod).update(procMount="Unmasked")],
    "seccomp": [
        lambda pod: pod["spec"]["securityContext"].pop("seccompProfile"),
        lambda pod: context(pod).update(seccompProfile={"type": "Unconfined"}),
    ],
    "sysctls": [
        lambda pod: pod["spec"]["securityContext"].update(sysctls=[{"name": "kernel.msgmax", "value": "1"}]),
    ],
    "privilege_escalation": [
        lambda pod: context(pod).pop("allowPrivilegeEscalation"),
        lambda pod: context(pod).update(allowPrivilegeEscalation=True),
    ],
    "non_root": [
        lambda pod: pod["spec"]["securityContext"].pop("runAsNonRoot"),
        lambda pod: context(pod).update(runAsNonRoot=False),
    ],
    "non_root_user": [
        lambda pod: pod["spec"]["securityContext"].update(runAsUser=0),
        lambda pod: context(pod).update(runAsUser=0),
    ],
}


def all_pods() -> list[Object]:
    return [pod_of(item) for _, item in all_objects() if item["kind"] == "Job"]


@pytest.mark.parametrize("rule", RULES)
def test_every_pod_keeps_the_rule_of_the_restricted_standard(rule: str) -> None:
    pods = all_pods()
    assert len(pods) == 35
    assert [found for pod in pods if (found := RULES[rule](pod))] == []


@pytest.mark.parametrize(
    ("rule", "mutate"),
    [pytest.param(rule, one, id=f"{rule}-{n}") for rule in RULES for n, one in enumerate(MUTATIONS[rule])],
)
def test_the_check_of_a_rule_reports_a_pod_that_breaks_it(rule: str, mutate: Mutation) -> None:
    for pod in all_pods()[:3]:
        broken = copy.deepcopy(pod)
        mutate(broken)
        assert set(violations(broken)) == {rule}


@pytest.mark.parametrize("kind", ["initContainers", "ephemeralContainers"])
def test_the_checks_see_containers_of_every_kind(kind: str) -> None:
    pod = copy.deepcopy(all_pods()[0])
    pod["spec"][kind] = [{"name": "other", "image": "x", "securityContext": {"privileged": True}}]
    assert set(violations(pod)) == {"privileged", "capabilities", "privilege_escalation"}


def test_more_than_the_standard_asks_for() -> None:
    """A read-only root, and no token of the cluster."""
    for pod in all_pods():
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert context(pod)["readOnlyRootFilesystem"] is True
        writable = {
            mount["mountPath"] for mount in pod["spec"]["containers"][0]["volumeMounts"] if not mount.get("readOnly")
        }
        assert {"/work", "/tmp"} <= writable <= {"/work", "/work/cache", "/tmp", "/dev/shm"}


# What a Job does.


def test_what_counts_as_a_failure_and_what_does_not() -> None:
    for way, final in (("jobs", "FailJob"), ("indexed", "FailIndex")):
        job = render(site_named("default", job_mode=way), THREE).objects[0]
        eviction, stopped, mistake = job["spec"]["podFailurePolicy"]["rules"]
        assert eviction == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
        assert (stopped["action"], stopped["onExitCodes"]["values"]) == ("Ignore", [EXIT_INTERRUPTED, 143])
        assert (mistake["action"], mistake["onExitCodes"]["values"]) == (final, [UsageError.exit_code])
        names = {rule["onExitCodes"]["containerName"] for rule in (stopped, mistake)}
        assert names == {container_of(job)["name"]}
        assert pod_of(job)["spec"]["restartPolicy"] == "Never"


def test_an_indexed_job_has_a_pod_for_each_run_and_the_handles_keep_the_order() -> None:
    specs = tuple(JobSpec(f"r{n}", STORE_URL, gpus=gpus) for n, gpus in enumerate((2, 1, 2)))
    request = render(site_named("default", job_mode="indexed"), JobGroup(specs))
    one, two = request.objects
    indexed = two["metadata"]["name"]
    assert request.jobs == (JobName(indexed, 0), JobName("r1"), JobName(indexed, 1))
    assert container_of(one)["args"][:2] == ["run-job", "r1"]
    assert "completionMode" not in one["spec"]
    assert container_of(two)["args"][:3] == ["run-job", "r0", "r2"]
    assert (two["spec"]["completions"], two["spec"]["parallelism"], two["spec"]["completionMode"]) == (2, 2, "Indexed")
    assert [container_of(job)["resources"]["limits"]["nvidia.com/gpu"] for job in (one, two)] == ["1", "2"]
    again = render(site_named("default", job_mode="indexed"), JobGroup((specs[0], JobSpec("r3", STORE_URL, gpus=2))))
    assert again.objects[0]["metadata"]["name"] != indexed  # else a handle of r2 would name r3's pod
    assert [container_of(job)["args"][-2:] for job in (one, two)] == [["--gpus", "1"], ["--gpus", "2"]]


def test_a_job_without_a_gpu_asks_for_none_and_sees_none_of_others() -> None:
    job, report = render(site_named("default", gpus=0), THREE).objects[::3]
    for one in (job, report):
        assert "nvidia.com/gpu" not in json.dumps(container_of(one)["resources"])
        assert {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"} in container_of(one)["env"]
    assert "--gpus" not in container_of(job)["args"]
    with pytest.raises(SchedulerError, match="needs 2 GPUs, but the site file requests none; set gpus there"):
        render(site_named("default", gpus=0), JobGroup((JobSpec("r", STORE_URL, gpus=2),)))


def test_a_store_that_no_pod_sees_is_refused() -> None:
    for url in ("/data/runs", "./runs", "file:///data/runs"):
        with pytest.raises(SchedulerError, match="is a folder of this machine, which pods cannot reach"):
            render(site_named("default"), JobGroup((JobSpec("r", url),)))


def test_the_report_waits_longer_than_the_runs_may_take_and_comes_last() -> None:
    site = site_named("default")
    request = render(site, THREE)
    *runs, report = request.objects
    assert request.report == JobName(report["metadata"]["name"])
    assert [job["metadata"]["name"] for job in runs] == [spec.run for spec in THREE.jobs]
    arguments = container_of(report)["args"]
    assert arguments[:4] == ["report", *(spec.run for spec in THREE.jobs)]
    assert int(arguments[arguments.index("--wait") + 1]) == site.seconds < report["spec"]["activeDeadlineSeconds"]
    assert render(site, ONE).report is None


@settings(max_examples=60, deadline=None)
@given(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True), st.integers(2, 1000))
def test_every_run_name_makes_names_that_kubernetes_takes(run: str, count: int) -> None:
    """A Job's name is a label's value and, with an index, a host name: at most 63 characters."""
    group = JobGroup(tuple(JobSpec(run, STORE_URL) for _ in range(count)), "s3://bucket/r")
    request = render(site_named("default", job_mode="indexed"), group)
    for item in request.objects:
        name = item["metadata"]["name"]
        assert layout.is_run_name(name)
        assert (
            layout.is_run_name(f"{name}-{count - 1}")
            or item["metadata"]["name"] == (request.report or JobName("")).name
        )
    assert short_name(f"{run}-report") != short_name(f"{run}x-report")


# Settings arrive as they are.

LINES = st.sampled_from(
    ["$(HOME)", "$$(HOME)", "$", "$(", "a: b", "# x", "yes", "n", "1e3", "0x1f", "12:30:00", "~", "null", "- a", "{a}", "!x",
     "&x", "*x", "%x", "@x", "`x`", "'", '"', "\\", " ", " a ", "ğüşİ 🙂", "\u2028", "\x85", "---", "..."]
) | st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=20)  # fmt: skip


def expanded(text: str, variables: dict[str, str]) -> str:
    """As Kubernetes reads arguments and values (k8s.io/kubernetes/third_party/forked/golang/expansion)."""

    def found(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else variables.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", found, text)


@settings(max_examples=200)
@given(LINES)
def test_kubernetes_reads_an_argument_as_it_was_meant(text: str) -> None:
    assert expanded(literal(text), {"HOME": "/work", "": "x"}) == text
    assert expanded("$(HOME) $$(HOME)", {"HOME": "/work"}) == "/work $(HOME)", "the stand-in does expand"


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,9}", fullmatch=True), LINES, max_size=4), LINES)
def test_a_hostile_setting_arrives_as_it_is_and_changes_nothing_else(environment: dict[str, str], word: str) -> None:
    group = JobGroup((JobSpec("run-a", f"s3://bucket/{word}"),))
    (plain,) = render(site_named("default"), group).objects
    request = render(site_named("default", environment=environment, context=word), group)
    (job,) = yaml.safe_load_all(request.yaml())
    assert job == request.objects[0], "what is printed is what is sent"
    given_now = {one["name"]: one["value"] for one in container_of(job)["env"] if "value" in one}
    assert {name: expanded(value, {"HOME": "/"}) for name, value in given_now.items()} == {
        SCHEDULER: "k8s",
        **environment,
    }
    assert violations(pod_of(job)) == {}
    container_of(job)["env"] = container_of(plain)["env"]
    assert job == plain


# Anything that some reader of YAML takes for a number, a date, a truth value or nothing: YAML 1.1, 1.2, Go's.
NOT_TEXT = re.compile(
    r"[-+]?(\.?[0-9][0-9_.:eExXoObBa-fA-F+-]*|\.(inf|nan))|y|n|yes|no|on|off|true|false|null|~|", re.IGNORECASE
)


@settings(max_examples=200)
@given(LINES | st.from_regex(NOT_TEXT, fullmatch=True))
def test_text_stays_text_for_every_reader_of_yaml(text: str) -> None:
    document = to_yaml([{"value": text}])
    assert yaml.safe_load(document) == {"value": text}
    bare = document.removeprefix("value: ").rstrip("\n")
    assert bare.startswith('"') or not NOT_TEXT.fullmatch(bare)


def test_no_secret_is_in_any_object(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN"):
        monkeypatch.setenv(variable, f"hidden-{variable}")
    for name in NAMES:
        request = render(site_named(name, hub_secret="hub"), THREE)
        assert "hidden" not in request.yaml()
        assert all(item["metadata"]["annotations"] == {STORE: STORE_URL} for item in request.objects)
        keys = [
            one["valueFrom"]["secretKeyRef"] for one in container_of(request.objects[0])["env"] if "valueFrom" in one
        ]
        assert {"name": "hub", "key": "HF_TOKEN"} in keys
        assert len(keys) == (1 if name == "eks-g5" else 4), "with workload identity there is no key to give"


def test_a_trackers_credentials_come_from_a_secret_that_may_have_some_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "hidden-key")
    request = render(site_named("default", tracker_secret="trackers"), THREE)
    assert "hidden" not in request.yaml()
    found = [one["valueFrom"]["secretKeyRef"] for one in container_of(request.objects[0])["env"] if "valueFrom" in one]
    names = ["WANDB_API_KEY", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"]
    expected = [{"name": "trackers", "key": name, "optional": True} for name in names]
    assert [one for one in found if one["name"] == "trackers"] == expected


# k8s/base.


def test_base_is_what_the_code_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CEFR_BATCH_K8S", str(SITES))
    made = runpy.run_path(str(ROOT / "tools" / "k8s_base.py"))["files"]()
    there = {path.name: path.read_text(encoding="utf-8") for path in (SITES / "base").iterdir()}
    assert made == there, "k8s/base has drifted; python tools/k8s_base.py writes it"


def test_base_differs_from_a_submitted_job_only_in_where_the_run_comes_from() -> None:
    base = yaml.safe_load((SITES / "base" / "job.yaml").read_text(encoding="utf-8"))
    (job,) = render(site_named("default", service_account="cefr-batch"), ONE).objects
    named = {one["name"]: one for one in container_of(base)["env"]}
    assert container_of(base)["args"][:6] == [
        "run-job", "$(RUN)", "--level", "B1", "--profile", "/etc/cefr-batch/settings.yaml"
    ]  # fmt: skip
    assert named.pop("RUN")["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.labels['job-name']"}}
    assert named.pop("CEFR_BATCH_STORE")
    container_of(base)["env"] = list(named.values())
    container_of(base)["args"] = container_of(job)["args"]
    assert container_of(base)["volumeMounts"].pop()["mountPath"] == "/etc/cefr-batch"
    assert pod_of(base)["spec"]["volumes"].pop() == {"name": "settings", "configMap": {"name": "cefr-batch"}}
    del job["metadata"]["annotations"]
    assert base == job


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
def test_kubectl_builds_base_with_what_its_job_refers_to(tmp_path: Path) -> None:
    overlay = {
        "resources": ["base"], "namespace": "team", "namePrefix": "mine-",
        "images": [{"name": "cefr-batch", "newName": "registry.example.org/cefr", "newTag": "1"}],
    }  # fmt: skip
    shutil.copytree(SITES / "base", tmp_path / "base")
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    built = subprocess.run(["kubectl", "kustomize", str(tmp_path)], capture_output=True, text=True, check=True).stdout
    objects = {item["kind"]: item for item in yaml.safe_load_all(built)}
    assert set(objects) == {"ConfigMap", "Job", "Role", "RoleBinding", "ServiceAccount"}
    assert {item["metadata"]["namespace"] for item in objects.values()} == {"team"}
    job, config = objects["Job"], objects["ConfigMap"]
    assert job["metadata"]["name"] == "mine-llama1b-b1-unsloth-v1", "which is the run's name then, of level B1"
    assert layout.run_level(job["metadata"]["name"]) == "B1"
    assert container_of(job)["image"] == "registry.example.org/cefr:1"
    assert pod_of(job)["spec"]["volumes"][-1]["configMap"]["name"] == config["metadata"]["name"]
    assert set(config["data"]) == {"CEFR_BATCH_STORE", "settings.yaml"}
    for item in objects.values():
        validate(item, schema_versions()[-1])


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
def test_the_example_overlay_builds_a_team_s_own_job_from_base() -> None:
    built = subprocess.run(
        ["kubectl", "kustomize", str(SITES / "overlays" / "team")], capture_output=True, text=True, check=True
    ).stdout
    objects = {item["kind"]: item for item in yaml.safe_load_all(built)}
    for item in objects.values():
        validate(item, schema_versions()[-1])
        assert item["metadata"]["namespace"] == "ml-team"
        assert item["metadata"]["name"].startswith("team-")
    (base,) = yaml.safe_load_all((SITES / "base" / "job.yaml").read_text(encoding="utf-8"))
    job, config, binding = (objects[kind] for kind in ("Job", "ConfigMap", "RoleBinding"))
    assert layout.run_level(job["metadata"]["name"]) == "B1", "its name is the run's"
    image, tag = (container_of(one)["image"] for one in (job, base))
    assert image == f"registry.example.org/ml-team/{tag}", "the version stays that of the base"
    assert job["metadata"]["labels"][QUEUE] == "ml-team"
    pod = pod_of(job)["spec"]
    assert (pod.get("affinity"), pod["nodeSelector"]) == (None, {"cloud.google.com/gke-accelerator": "nvidia-l4"})
    mounts = {one["name"]: one["mountPath"] for one in container_of(job)["volumeMounts"]}
    assert {one["name"] for one in pod["volumes"]} == set(mounts)
    assert mounts["cache"] == f"{mounts['work']}/cache"
    assert violations(pod_of(job)) == {}
    assert yaml.safe_load(config["data"]["settings.yaml"]) == {"backend": "unsloth", "training": {"seed": 7}}
    assert not store_problem(config["data"]["CEFR_BATCH_STORE"])
    assert [one["name"] for one in binding["subjects"]] == ["ml-team"]
    assert binding["roleRef"]["name"] == objects["Role"]["metadata"]["name"]


def store_problem(url: str) -> str:
    """What rendering a Job for this store refuses; empty if nothing."""
    try:
        render(site_named("default"), JobGroup((JobSpec("run", url),)))
    except SchedulerError as exc:
        return str(exc)
    return ""


def test_the_role_of_who_submits_is_of_the_namespace_and_reads_only_the_secret_that_jobs_use() -> None:
    role, _ = yaml.safe_load_all((SITES / "base" / "submitter.yaml").read_text(encoding="utf-8"))
    assert role["kind"] == "Role"
    for rule in role["rules"]:
        assert "*" not in json.dumps(rule)
        assert ("secrets" in rule["resources"]) == ("resourceNames" in rule)
    writes = {r for rule in role["rules"] if set(rule["verbs"]) - {"get", "list", "watch"} for r in rule["resources"]}
    assert writes == {"jobs", "pods"}, "pods of lost nodes, which resume --force deletes"


def test_only_the_report_s_pod_may_ask_the_cluster_and_only_with_an_account_for_it() -> None:
    for account in (None, "reporter"):
        site = site_named("default", service_account="sa", report_account=account)
        *jobs, report = [job["spec"]["template"]["spec"] for job in render(site, THREE).objects]
        assert len(jobs) == 3
        assert {(pod["serviceAccountName"], pod["automountServiceAccountToken"]) for pod in jobs} == {("sa", False)}
        expected = (account or "sa", account is not None)
        assert (report["serviceAccountName"], report["automountServiceAccountToken"]) == expected


def test_the_role_of_the_report_lists_and_does_nothing_else() -> None:
    account, role, binding = yaml.safe_load_all((SITES / "base" / "reporter.yaml").read_text(encoding="utf-8"))
    assert {verb for rule in role["rules"] for verb in rule["verbs"]} == {"list"}
    assert {name for rule in role["rules"] for name in rule["resources"]} == {"jobs", "pods"}
    assert [one["name"] for one in binding["subjects"]] == [account["metadata"]["name"]]


def test_a_site_s_notices_reach_a_pod_as_settings_and_their_addresses_from_a_secret() -> None:
    site = site_named("default", notify=NotifySpec(variable="CEFR_BATCH_NOTIFY_TEAM"), notify_secret="team")
    (container,) = render(site, ONE).objects[0]["spec"]["template"]["spec"]["containers"]
    variables = {one["name"]: one for one in container["env"]}
    reference = {"name": "team", "key": "CEFR_BATCH_NOTIFY_TEAM"}
    assert variables["CEFR_BATCH_NOTIFY_TEAM"]["valueFrom"] == {"secretKeyRef": reference}
    assert json.loads(variables[SITE_NOTIFY]["value"])["variable"] == "CEFR_BATCH_NOTIFY_TEAM"
    with pytest.raises(ValueError, match="no secrets in a site file"):
        site_named("default", environment={"CEFR_BATCH_NOTIFY": "mailto://me@example.org"})
