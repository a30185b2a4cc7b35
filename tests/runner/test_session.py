"""The Python API, as the README shows it; and what importing it loads."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.runs import ROOT

from cefr_batch.runner import Session, State

HEAVY = ["torch", "transformers", "boto3", "kubernetes", "submitit", "rich", "tokenizers", "matplotlib"]


def lines_of_the_readme() -> str:
    """The block under "From Python"."""
    found = re.search(
        r"^#+ From Python\n.*?^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert found, "README.md has no Python block under the heading From Python"
    return found[1]


@pytest.fixture
def tiny_jobs(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project's job files, with a profile ``smoke`` that trains the tiny model for seconds."""
    jobs = tmp_path / "jobs"
    shutil.copytree(ROOT / "jobs", jobs)
    profile = {
        "backend": "peft",
        "model": {"name": str(tiny_model), "alias": "tiny"},
        "data": {"examples": 20},
        "lora": {"rank": 4},
        "training": {"max_length": 2048, "batch_size": 2, "gradient_accumulation_steps": 1, "eval_steps": 2},
        "evaluation": {"max_examples": 2},
        "generation": {"examples": 1, "max_new_tokens": 4},
    }
    (jobs / "profiles" / "smoke.yaml").write_text(yaml.safe_dump(profile))
    monkeypatch.setenv("CEFR_BATCH_JOBS", str(jobs))


@pytest.mark.slow
def test_the_readme_s_lines_train_stop_resume_pull_and_report(tiny_jobs: None, tmp_path: Path) -> None:
    code = lines_of_the_readme()
    assert len([line for line in code.splitlines() if line]) == 10
    here = tmp_path / "here"
    here.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=here, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    runs = ["tiny-a1-peft-v1", "tiny-b1-peft-v1"]
    session = Session(str(here / "runs"))
    assert session.runs() == runs
    assert [(state.state, state.step) for state in session.status()] == [(State.SUCCEEDED, 4)] * 2
    assert session.logs(runs[0]).strip() in done.stdout
    assert {path.name for path in (here / "pulled" / runs[0]).iterdir()} == {"adapter", "manifest.json"}
    levels = json.loads((here / "report" / "report.json").read_text())["levels"]
    assert [level["level"] for level in levels] == ["A1", "B1"]
    assert session.store.get_json(f"runs/{runs[1]}/submission.json")["cancelled_at"] is None, "it was resumed"


def test_importing_the_runner_loads_no_training_library_and_no_client() -> None:
    code = f"import sys, cefr_batch.runner; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
