"""sbatch scripts: whole ones for the sites that ship, and nothing of a setting that reaches a shell unquoted."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.goldens import same_as_golden

from cefr_batch.errors import SchedulerError, SpecError
from cefr_batch.schedulers import JobGroup, JobSpec
from cefr_batch.schedulers.slurm.scheduler import SlurmScheduler
from cefr_batch.schedulers.slurm.script import render
from cefr_batch.schedulers.slurm.site import PATTERNS, SlurmSite, load_site

SITES = Path(__file__).parents[2] / "slurm"
NAMES = sorted(path.stem for path in SITES.glob("*.yaml"))
ONE = JobGroup((JobSpec("llama1b-b1-unsloth-v1", "s3://bucket/prefix"),))
THREE = JobGroup(
    tuple(JobSpec(f"llama1b-{level}-unsloth-v1", "s3://bucket/prefix") for level in ("a1", "a2", "b1")),
    "s3://bucket/prefix/reports/llama1b-a1-unsloth-v1",
)


def site_named(name: str, **more: Any) -> SlurmSite:
    fixed = {"shared": "/shared/ayşe/cefr batch", "python": "/opt/cefr/bin/python"}
    site = SlurmSite.model_validate({**load_site(name).model_dump(), **fixed, **more})
    if broken := list(site.broken_rules()):
        raise ValueError(broken)
    return site


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ayşe")
    monkeypatch.setenv("CEFR_BATCH_SLURM", str(SITES))


def test_the_sites_that_ship_are_known() -> None:
    assert NAMES == ["cpu", "default", "gpu-apptainer", "gpu-pyxis"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("group", [ONE, THREE], ids=["one", "three"])
def test_the_request_of_a_site_is_the_golden_one(name: str, group: JobGroup) -> None:
    scheduler = SlurmScheduler(name)
    scheduler.__dict__["site"] = site_named(name)
    text = scheduler.describe(scheduler.render(group)) + "\n"
    same_as_golden(f"slurm-{name}-{len(group.jobs)}.txt", text)
    scripts = [script.text for script in scheduler.render(group).scripts]
    assert all(script.rstrip("\n") in text for script in scripts)
    for script in scripts:
        assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True).stderr == ""


def test_jobs_whose_gpus_differ_are_arrays_of_their_own_and_handles_keep_the_order() -> None:
    specs = tuple(JobSpec(f"r{n}", "s3://b/p", gpus=gpus) for n, gpus in enumerate((2, 1, 2)))
    request = render(site_named("default"), JobGroup(specs))
    assert [len(script.commands) for script in request.scripts] == [1, 2]
    assert [re.findall("--gres=.*", s.text)[0] for s in request.scripts] == ["--gres=gpu:1", "--gres=gpu:2"]
    assert request.positions == (1, 0, 2)


def test_more_runs_than_an_array_may_have_are_several_arrays() -> None:
    specs = tuple(JobSpec(f"r{n}", "s3://b/p") for n in range(5))
    request = render(site_named("default", array_size=2), JobGroup(specs, "s3://b/p/reports/x"))
    assert [len(script.commands) for script in request.scripts] == [2, 2, 1, 1]
    assert [re.findall("--array=(.*)", script.text) for script in request.scripts] == [["0-1"], ["0-1"], [], []]
    assert request.positions == (0, 1, 2, 3, 4)
    assert len({script.folder for script in request.scripts}) == 4
    assert "--dependency=afterany:7:8:9" in request.scripts[-1].sbatch("x.sh", "/x", ["7", "8", "9"])


HOSTILE = [
    "a b",
    "it's",
    '"',
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned",
    "ğüşİ 🙂",
    "\\",
    "*",
    "#x",
    "-n",
    "$HOME",
]
WORDS = st.sampled_from(HOSTILE) | st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="%"), min_size=1, max_size=20
)
STUB = f"""#!{sys.executable}
import json, os, sys
json.dump([sys.argv[1:], dict(os.environ)], open(os.environ["SEEN"], "w"))
"""


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(WORDS, min_size=6, max_size=6))
def test_a_hostile_setting_arrives_as_it_is_and_runs_nothing(tmp_path: Path, words: list[str]) -> None:
    """The script runs in a real shell; only ``srun`` is a stand-in, which records what it receives."""
    partition, account, qos, value, folder, python = words
    site = site_named(
        "default",
        partition=partition,
        account=account,
        qos=qos,
        environment={"CEFR_TEST": value},
        shared=f"/shared/{folder}",
        python=python,
        options=[f"--comment={value}"],
    )
    script = render(site, ONE).scripts[0]
    (tmp_path / "srun").write_text(STUB)
    (tmp_path / "srun").chmod(0o755)
    seen = tmp_path / "seen.json"
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SEEN": str(seen)}
    jobs = str(site.jobs / "e2e" / script.folder)
    subprocess.run(["bash", "-c", script.text, "script.sh", jobs], env=environment, cwd=tmp_path, check=True)
    arguments, exported = json.loads(seen.read_text())
    assert arguments == [
        "--unbuffered", "--cpus-per-task=8", python, "-u", "-m", "submitit.core._submit", jobs
    ]  # fmt: skip
    assert exported["CEFR_TEST"] == value
    assert exported["CEFR_BATCH_CACHE"] == str(site.cache)
    assert {path.name for path in tmp_path.iterdir()} == {"srun", "seen.json"}
    options = [shlex.split(line.removeprefix("#SBATCH ")) for line in script.text.splitlines() if "#SBATCH" in line]
    for option in (f"--partition={partition}", f"--account={account}", f"--qos={qos}", f"--comment={value}"):
        assert [option] in options


@pytest.mark.parametrize("key", [k for k, f in SlurmSite.model_fields.items() if f.annotation not in (bool, int)])
def test_a_line_break_or_another_control_character_is_refused_in_every_setting(key: str) -> None:
    good = site_named("default").model_dump()
    for bad in ("x\n#SBATCH --wrap=id", "x\0", "x\r"):
        for value in (bad, [bad], {"A": bad}, {bad: "a"}):
            with pytest.raises(ValueError, match=key):
                SlurmSite.model_validate({**good, key: value})
    for inner in ("image", "program"):
        with pytest.raises(ValueError, match=inner):
            SlurmSite.model_validate({**good, "container": {**good["container"], inner: "x\ny"}})


BAD_SITE = """
extends: default
partitoin: gpu
cpus: many
time: "00:02:00"
options: [--array=1]
memory: 32 GB
shared: relative/folder
container: {runtime: docker}
environment: {"A B": x}
gres: "gpu:1; id"
"""


def test_every_problem_of_a_site_file_is_reported_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "default.yaml").write_bytes((SITES / "default.yaml").read_bytes())
    (tmp_path / "bad.yaml").write_text(BAD_SITE)
    monkeypatch.setenv("CEFR_BATCH_SLURM", str(tmp_path))
    with pytest.raises(SpecError) as caught:
        load_site("bad")
    text = str(caught.value)
    for expected in (
        "partitoin: unknown key (did you mean partition?)",
        "cpus: must be a whole number (got 'many')",
        "memory: must be a number and M, G or T, as in 32G (got '32 GB')",
        "shared: must be an absolute path",
        "container.runtime: must be one of 'none', 'apptainer', 'pyxis', 'charliecloud' (got 'docker')",
        "environment.A B",
        "gres: must be a name without spaces or quotes",
        "time: 00:02:00 leaves no time to train",  # rules over well-formed settings, beside those that are not
        "options: --array=1: set by cefr-batch itself",
    ):
        assert expected in text, text
    assert f"{tmp_path / 'bad.yaml'}: cpus" in text
    with pytest.raises(SpecError, match=r"there is no .*nowhere.yaml; sites known: bad, default"):
        load_site("nowhere")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("time: 1", r'time: must be text in quotes: HH:MM:SS .*, such as "04:00:00" \(got 1;'),
        ("time: 1:30:00", r"time: must be text in quotes: HH:MM:SS .* \(got 5400; .* 1:30:00 as a number"),
        ("options: [7]", r"options.0: must be text in quotes: a long option of sbatch, .* \(got 7;"),
        ("environment: {A: 7}", r"environment.A: must be text in quotes: one line of text \(got 7;"),
        ("container: {image: 7}", r"container.image: must be text in quotes: one line of text \(got 7;"),
    ],
)
def test_text_that_yaml_reads_as_a_number_says_its_form_and_the_quotes(
    line: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "default.yaml").write_bytes((SITES / "default.yaml").read_bytes())
    (tmp_path / "odd.yaml").write_text(f"extends: default\n{line}\n")
    monkeypatch.setenv("CEFR_BATCH_SLURM", str(tmp_path))
    with pytest.raises(SpecError, match=message):
        load_site("odd")


def test_a_job_that_could_not_store_a_checkpoint_before_its_limit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"leaves no time to train.* give more than 180 s"):
        site_named("default", time="00:03:00", signal_seconds=120)
    assert site_named("default", time="00:03:01", signal_seconds=120).seconds == 181


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"options": ["--array=0-9"]}, "options: --array=0-9: set by cefr-batch itself"),
        ({"options": ["--ntasks=4", "--exclude=n7"]}, "options: --ntasks=4: set by"),
        (
            {"environment": {"AWS_SECRET_ACCESS_KEY": "x"}},
            "environment: AWS_SECRET_ACCESS_KEY: no secrets in a site file",
        ),
        ({"shared": "~nobody-of-this-name/x"}, "shared"),
    ],
)
def test_what_would_break_a_job_or_leak_a_key_is_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        site_named("default", **more)


def test_a_folder_that_cannot_be_mounted_is_refused_where_there_is_a_container() -> None:
    with pytest.raises(ValueError, match="work: /a:b,c has a colon or a comma"):
        site_named("gpu-pyxis", work="/a:b,c")
    assert site_named("default", work="/a:b,c").work == "/a:b,c"


def test_a_site_file_alone_in_a_folder_extends_the_one_that_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CEFR_BATCH_SLURM")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "mine.yaml").write_text("extends: default\npartition: gpu\n")
    assert load_site("mine").partition == "gpu"
    assert load_site("mine").time == load_site("default").time


def test_more_gpus_than_a_site_without_any_can_give() -> None:
    with pytest.raises(SchedulerError, match="needs 2 GPUs, but the site file requests none; set gres there"):
        render(site_named("cpu"), JobGroup((JobSpec("run-a", "s3://b/p", gpus=2),)))


def run_script(folder: Path, setup: list[str], **more: Any) -> subprocess.CompletedProcess[str]:
    """A site's script in a real shell; srun is a stand-in that says what it finds."""
    script = render(site_named("default", setup=setup, shared=str(folder / "shared"), **more), ONE).scripts[0]
    (folder / "srun").write_text('#!/bin/sh\necho "srun: FOUND=$FOUND in $(pwd)"\n')
    (folder / "srun").chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.run(["bash"], input=script.text, env=environment, cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("module load cuda/99", 127),
        ("cd /no/such/folder && export FOUND=2", 1),
        ("(exit 42)", 42),
        ("source /no/such/conda.sh", 1),
        ("export FOUND=2; false # at last", 1),
    ],
)
def test_a_line_of_setup_that_fails_ends_the_job_and_says_which(tmp_path: Path, line: str, code: int) -> None:
    done = run_script(tmp_path, ["# the lab's modules", "export FOUND=1", line, "touch later"])
    assert done.returncode == code
    assert f"cefr-batch: stopped: setup: {line} (exit code {code})" in done.stderr.splitlines()
    assert "srun:" not in done.stdout
    assert not (tmp_path / "later").exists()
    ignoring = run_script(tmp_path, ["export FOUND=1", line], setup_errors="ignore")
    assert ignoring.returncode == 0
    assert "srun: FOUND=" in ignoring.stdout


def test_lines_of_setup_that_succeed_prepare_the_job(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "env.sh").write_text("false; FOUND=$FOUND$LAST\n")  # a file that is sourced may have commands that fail
    setup = ["export FOUND=1", "LAST=2", "source ./env.sh", "if false; then exit 3; fi", "cd inner", "# done"]
    done = run_script(tmp_path, setup)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"srun: FOUND=12 in {tmp_path / 'inner'}\n"


TWO = JobGroup((JobSpec("run-a", "s3://b/p", gpus=2), JobSpec("run-b", "s3://b/p", gpus=2)), "s3://b/p/reports/x")


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"gres": "lustre:1,gres:gpu:1"}, "#SBATCH --gres=lustre:1,gpu:2"),
        ({"gres": None, "options": ["--gpus=a100:1", "--exclude=n7"]}, "#SBATCH --gpus=a100:2"),
        ({"gres": None, "options": ["--gpus-per-task=1"]}, "#SBATCH --gpus-per-task=2"),
        ({"gres": "gpu:4"}, "#SBATCH --gres=gpu:4"),
    ],
)
def test_gpus_in_any_form_reach_the_container_the_promise_and_runs_of_several(more: dict[str, Any], line: str) -> None:
    jobs, report = render(site_named("gpu-apptainer", **more), TWO).scripts
    assert line in jobs.text.splitlines()
    assert "--nv" in jobs.commands[0]
    assert jobs.commands[0][-2:] == ("--gpus", "4" if more["gres"] == "gpu:4" else "2")
    assert not re.search("gpu|gres", report.text.replace("--partition=gpu", ""))  # it only reads small files
    assert "--nv" not in report.commands[0]


def test_a_request_that_cannot_be_read_may_be_a_gpu_and_promises_none() -> None:
    site = site_named("gpu-apptainer", gres="gpu:a:b:c")
    (script,) = render(site, ONE).scripts
    assert "--nv" in script.commands[0]
    assert "--gpus" not in script.commands[0]
    with pytest.raises(SchedulerError, match=r"needs 2 GPUs, and how many gres gpu:a:b:c asks for is not known"):
        render(site, TWO)
    with pytest.raises(SchedulerError, match=r"needs 2 GPUs, but gres of the site file asks for several kinds"):
        render(site_named("default", gres="shard:2"), TWO)


def test_cpus_and_memory_that_the_cluster_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs, report = render(site_named("gpu-pyxis", cpus=None, memory=None), TWO).scripts
    assert not re.search("cpus-per-task|--mem", jobs.text + report.text + " ".join(jobs.commands[0]))
    (tmp_path / "mine.yaml").write_text("extends: default\nmem_per_cpu: 4G\n")
    (tmp_path / "default.yaml").write_bytes((SITES / "default.yaml").read_bytes())
    monkeypatch.setenv("CEFR_BATCH_SLURM", str(tmp_path))
    site = load_site("mine")
    assert (site.memory, site.memory_mb) == (None, 8 * 4096)
    (script,) = render(site, ONE).scripts
    assert "#SBATCH --mem-per-cpu=4G" in script.text.splitlines()
    assert "--mem=" not in script.text
    with pytest.raises(ValueError, match="mem_per_cpu: memory is set too"):
        site_named("default", mem_per_cpu="4G")


def test_every_pattern_is_described_in_words() -> None:
    schema = json.dumps(SlurmSite.model_json_schema())
    used = {json.loads(f'"{text}"') for text in re.findall(r'"pattern": "((?:[^"\\]|\\.)*)"', schema)}
    assert used <= set(PATTERNS)
    assert all(json.dumps(pattern)[1:-1] in schema for pattern in PATTERNS)
