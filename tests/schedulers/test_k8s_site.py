"""Kubernetes site files: every problem at once, in words; nothing that Kubernetes or the job would choke on."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cefr_batch import __version__
from cefr_batch.errors import SpecError
from cefr_batch.planning.gpus import find_gpu
from cefr_batch.schedulers.k8s.scheduler import KubernetesScheduler
from cefr_batch.schedulers.k8s.site import PATTERNS, KubernetesSite, SecretKey, load_site

SITES = Path(__file__).parents[2] / "k8s"
NAMES = sorted(path.stem for path in SITES.glob("*.yaml"))


@pytest.fixture(autouse=True)
def sites(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CEFR_BATCH_K8S", str(SITES))


def site_named(name: str, **more: Any) -> KubernetesSite:
    site = KubernetesSite.model_validate({**load_site(name).model_dump(), **more})
    if broken := list(site.broken_rules()):
        raise ValueError(broken)
    return site


BAD_SITE = """
extends: default
imagee: x
image: "registry.example.org/cefr batch"
namespace: Team_A
cpus: many
memory: 32 GB
time: 8 hours
grace_seconds: 5
storage_secret: "my secret"
node_selector: {"a b": x, zone: "-x"}
node_affinity:
  - {key: nvidia.com/gpu.memory, operator: More, values: ["1"]}
tolerations:
  - {key: dedicated, valeu: gpu}
job_mode: array
environment: {"A B": x}
queue: "-q"
"""


def test_every_problem_of_a_site_file_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "default.yaml").write_bytes((SITES / "default.yaml").read_bytes())
    (tmp_path / "bad.yaml").write_text(BAD_SITE)
    monkeypatch.setenv("CEFR_BATCH_K8S", str(tmp_path))
    with pytest.raises(SpecError) as caught:
        load_site("bad")
    text = str(caught.value)
    for expected in (
        "imagee: unknown key (did you mean image?)",
        "image: must be an image, as in registry.example.org/cefr-batch:{version}-cuda",
        "namespace: must be a Kubernetes name: lower-case letters, digits and dashes, at most 63 (got 'Team_A')",
        "cpus: must be a whole number (got 'many')",
        "memory: must be a number and Mi, Gi or Ti, as in 32Gi (got '32 GB')",
        "time: must be HH:MM:SS or D-HH:MM:SS, such as \"04:00:00\" (got '8 hours')",
        "grace_seconds: must be greater than or equal to 30 (got 5)",
        "storage_secret: must be a Kubernetes name",
        "node_selector.a b",
        "node_selector.zone: must be the value of a label",
        "node_affinity.0.operator: must be one of 'In', 'NotIn', 'Exists', 'DoesNotExist', 'Gt', 'Lt' (got 'More')",
        "tolerations.0.valeu: unknown key (did you mean value?); valid keys here: key, operator, value, effect",
        "job_mode: must be one of 'jobs', 'indexed' (got 'array')",
        "environment.A B",
        "queue: must be the value of a label",
    ):
        assert expected in text, text
    assert len(caught.value.problems) == 15
    assert f"{tmp_path / 'bad.yaml'}: cpus" in text
    with pytest.raises(SpecError, match=r"there is no .*nowhere.yaml; sites known: bad, default"):
        load_site("nowhere")


def test_an_unknown_key_and_broken_rules_are_told_together_and_the_cluster_is_asked_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "default.yaml").write_bytes((SITES / "default.yaml").read_bytes())
    (tmp_path / "bad.yaml").write_text(
        'extends: default\nimagee: x\ntime: "00:00:00"\nenvironment: {HF_TOKEN: x}\ncontext: nowhere\n'
    )
    monkeypatch.setenv("CEFR_BATCH_K8S", str(tmp_path))
    scheduler = KubernetesScheduler("bad")
    with pytest.raises(SpecError) as caught:
        scheduler.require_settings()
    text = str(caught.value)
    for expected in (
        "imagee: unknown key",
        "time: 00:00:00 leaves no time to train",
        "environment: HF_TOKEN: no secrets",
    ):
        assert expected in text, text
    assert any("nowhere" in check.problem for check in scheduler.check(["peft"], "s3://bucket/prefix"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"environment": {"AWS_SECRET_ACCESS_KEY": "x", "HF_TOKEN": "y", "MY_PASSWORD": "z"}},
            "environment: AWS_SECRET_ACCESS_KEY, HF_TOKEN, MY_PASSWORD: no secrets in a site file; put them into a Secret",
        ),
        ({"time": "00:00:00"}, "time: 00:00:00 leaves no time to train"),
        ({"run_as": 0}, "run_as"),
        (
            {"node_affinity": [{"key": "zone", "operator": "In"}]},
            r"zone: In needs at least one value \(got values: \[\]\)",
        ),
        ({"node_affinity": [{"key": "gb", "operator": "Gt", "values": ["many"]}]}, r"gb: Gt .* whole number .*'many'"),
        ({"node_affinity": [{"key": "gb", "operator": "Gt", "values": ["1", "2"]}]}, "gb: Gt needs exactly one"),
        (
            {"node_affinity": [{"key": "gpu", "operator": "Exists", "values": ["1"]}]},
            r"gpu: Exists takes no values \(got values: \['1'\]\)",
        ),
        ({"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}, r"a: Exists takes no value \(got 'b'\)"),
        ({"tolerations": [{"value": "b"}]}, "tolerations: Equal needs a key"),
        ({"image": "cefr-batch@sha256:abc"}, "image"),
    ],
)
def test_what_kubernetes_would_refuse_or_would_leak_a_key_is_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        site_named("default", **more)


@pytest.mark.parametrize("key", [k for k, f in KubernetesSite.model_fields.items() if f.annotation not in (bool, int)])
def test_a_line_break_or_another_control_character_is_refused_in_every_setting(key: str) -> None:
    good = load_site("default").model_dump()
    for bad in ("x\ny", "x\0", "x\r", "x\n"):
        for value in (bad, [bad], {"A": bad}, {bad: "a"}, [{"key": bad, "operator": "Exists"}]):
            with pytest.raises(ValueError, match=key):
                KubernetesSite.model_validate({**good, key: value})


def test_the_image_of_a_site_follows_the_version_unless_its_file_pins_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_site("default").image == f"cefr-batch:{__version__}-cuda", "as `make image` names it"
    pinned = [name for name in NAMES if "@sha256:" in load_site(name).image]
    assert pinned == ["onprem-rtx4090"]
    assert all(f":{__version__}-" in load_site(name).image for name in NAMES if name not in pinned)
    for path in SITES.glob("*.yaml"):
        assert __version__ not in path.read_text(encoding="utf-8"), "the version is stated once, in the package"
    (tmp_path / "default.yaml").write_bytes((SITES / "default.yaml").read_bytes())
    (tmp_path / "mine.yaml").write_text("extends: default\nimage: registry.example.org/mine:7\n")
    monkeypatch.setenv("CEFR_BATCH_K8S", str(tmp_path))
    assert load_site("mine").image == "registry.example.org/mine:7"


def test_the_former_names_of_settings_are_still_read_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "default.yaml").write_bytes((SITES / "default.yaml").read_bytes())
    old = tmp_path / "old.yaml"
    old.write_text('extends: default\nseveral_levels: indexed\nkeep_finished: "1-00:00:00"\n')
    monkeypatch.setenv("CEFR_BATCH_K8S", str(tmp_path))
    site = load_site("old")
    assert (site.job_mode, site.ttl_after_finished) == ("indexed", "1-00:00:00")
    assert caplog.messages == [
        f"{old}: several_levels is deprecated, use job_mode instead",
        f"{old}: keep_finished is deprecated, use ttl_after_finished instead",
    ]


def test_a_deprecated_setting_is_told_on_standard_error_by_every_command_that_reads_it(tmp_path: Path) -> None:
    (tmp_path / "k8s").mkdir()
    (tmp_path / "k8s" / "old.yaml").write_text("extends: default\nseveral_levels: indexed\n")
    environment = {**os.environ, "KUBECONFIG": str(tmp_path / "none"), "CEFR_BATCH_STORE": str(tmp_path)}
    environment.pop("CEFR_BATCH_K8S")
    command = [sys.executable, "-m", "cefr_batch", "doctor", "--cluster", "k8s/old"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "old.yaml: several_levels is deprecated, use job_mode instead" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_gpus_of_the_sites_have_24_gb() -> None:
    gpus = [find_gpu(gpu) for name in NAMES if (gpu := load_site(name).gpu)]
    assert len(gpus) == 3
    assert all(21 < gpu.memory / 2**30 < 25 for gpu in gpus)


def test_keys_come_from_secrets_or_with_workload_identity_from_nowhere() -> None:
    assert load_site("default").secret_keys == (
        SecretKey("AWS_ACCESS_KEY_ID", "cefr-batch-store"),
        SecretKey("AWS_SECRET_ACCESS_KEY", "cefr-batch-store"),
        SecretKey("AWS_SESSION_TOKEN", "cefr-batch-store", optional=True),
    )
    assert load_site("eks-g5").secret_keys == ()
    assert load_site("eks-g5").service_account == "cefr-batch"


def test_a_site_file_alone_in_a_folder_extends_the_one_that_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CEFR_BATCH_K8S")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "k8s").mkdir()
    (tmp_path / "k8s" / "mine.yaml").write_text("extends: default\nnamespace: team\n")
    assert load_site("mine").namespace == "team"
    assert load_site("mine").time == load_site("default").time


def test_the_default_file_has_every_setting_once_and_every_pattern_is_told_in_words() -> None:
    text = (SITES / "default.yaml").read_text(encoding="utf-8")
    keys = re.findall(r"^([a-z_]+):", text, re.MULTILINE)
    assert keys == list(dict.fromkeys(keys))
    assert set(keys) == set(KubernetesSite.model_fields)
    schema = json.dumps(KubernetesSite.model_json_schema())
    used = {json.loads(f'"{pattern}"') for pattern in re.findall(r'"pattern": "((?:[^"\\]|\\.)*)"', schema)}
    named = {json.loads(f'"{p}"') for p in re.findall(r'"propertyNames": {"pattern": "((?:[^"\\]|\\.)*)"', schema)}
    assert used | named <= set(PATTERNS)
