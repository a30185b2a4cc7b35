"""Must show: what the documentation tells its readers to type does what the page says, in one shell for each page.

In a folder with a reader's files and three levels trained before, with a tiny model in place of the real ones.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import openpyxl
import pytest
import yaml
from clusters.s3 import KEYS, Server
from support.runs import ROOT, cefr_batch
from support.shown_commands import Block, ShownCommand, blocks, script

from cefr_batch.config.schema import Level
from cefr_batch.data.pairs import read_pairs

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not os.environ.get("CEFR_BATCH_TEST_LONG"), reason="takes minutes: make e2e-long"),
]

PAGES = {page: blocks(page) for page in (ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")))}
NOT_RUN = [block for found in PAGES.values() for block in found if block.not_run or block.needs not in ("", "S3")]
END = "END OF COMMAND"


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def jobs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's job files, with the tiny model in place of the default one and of the profile's."""
    folder = tmp_path_factory.mktemp("shown") / "jobs"
    shutil.copytree(ROOT / "jobs", folder)
    base = yaml.safe_load((folder / "base.yaml").read_text())
    base["backend"] = "peft"
    base["model"]["name"] = str(tiny_model)
    base["data"]["examples"] = 20
    base["lora"]["rank"] = 4
    base["training"] |= {"max_length": 2048, "max_steps": 2, "batch_size": 2, "gradient_accumulation_steps": 1}
    base["evaluation"]["max_examples"] = 2
    base["generation"] |= {"examples": 1, "max_new_tokens": 4}
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    (folder / "profiles" / "smoke.yaml").write_text(yaml.safe_dump({"model": {"alias": "smollm2"}}))
    return folder


@pytest.fixture(scope="module")
def trained(jobs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a complete run of A1, A2 and B1."""
    store = tmp_path_factory.mktemp("trained") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CEFR_BATCH_JOBS", str(jobs))
        cefr_batch("submit", "--level", "A1", "--level", "A2", "--level", "B1", "--wait", store=store)
    return store


@pytest.fixture
def folder(trained: Path, tiny_model: Path, tmp_path: Path) -> Path:
    """A reader's: own words, own data, own model, and what was trained before."""
    here = tmp_path / "here"
    shutil.copytree(trained, here / "runs")
    (here / ".venv").symlink_to(sys.prefix)
    (here / "my-llama").symlink_to(tiny_model)
    for table in ("my_sentences.csv", "cumlelerim.csv"):
        rows = [f'{pair.word},"{pair.sentence}"' for pair in read_pairs("starter", Level.B1)]
        (here / table).write_text("\n".join(["word,sentence", *rows]))
    for table in ("unfinished.csv", "eksik.csv"):
        (here / table).write_text("\n".join(["word,sentence", *rows[:4], "travel,", *rows[4:]]))
    for words in ("words.txt", "kelimeler.txt"):
        (here / words).write_text("travel\ndecide\ninvite\n")
    for table in ("words.xlsx", "kelimeler.xlsx"):
        _spreadsheet(here / table)
    run = next((here / "runs" / "datasets").iterdir())
    shutil.copy(run / "eval.json", here / "exam.json")
    return here


def _spreadsheet(path: Path) -> None:
    """A2 pairs of which five are nearly another, two words are above the level, and two sentences far from it."""
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    pairs = [(pair.word, pair.sentence) for pair in read_pairs("starter", Level.A2)]
    word, sentence = max(pairs, key=lambda pair: len(pair[1]))
    far = "Notwithstanding the daunting constitutional ramifications, the legislature, having deliberated, acquiesced."
    above = [("daunting", far), ("daunting", far.replace("legislature", "senate"))]
    nearly = [(word, sentence.replace(".", end)) for end in ("!!", "?!", "!?", "??")]
    for row in [("word", "sentence"), *above, *pairs, *nearly]:
        sheet.append(row)
    book.save(path)


@pytest.fixture
def values(page: Path, server_of: Callable[[str], Server]) -> dict[str, str]:
    """What stands in the pages for a reader's own, and what it is here."""
    found = {"-unsloth-": "-peft-", "json://hooks.example.org/runs": "json://127.0.0.1:9/runs"}
    if not any(block.needs == "S3" for block in PAGES[page]):
        return found
    server = server_of("moto")
    server.client().create_bucket(Bucket="my-bucket")
    return found | {
        "https://s3.example.org": f"{server.endpoint}&region=us-east-1&addressing=path",
        "AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=…": " ".join(f"{key}={value}" for key, value in KEYS.items()),
    }


def type_them(found: list[Block], folder: Path, values: dict[str, str], environment: dict[str, str]) -> list[str]:
    """Type the blocks' commands in one shell; return what was wrong."""
    commands = [command for block in found for command in block.commands]
    done = subprocess.run(
        ["bash", "-c", script(commands, values, END)],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    parts = done.stdout.split(END)
    wrong = []
    for number, command in enumerate(commands):
        before = parts[number].partition("\n")[2] if number else parts[0]
        code = parts[number + 1].split(maxsplit=2)[1] if number + 1 < len(parts) else "none: the shell ended"
        wrong += _complaints(command, before, code)
    return wrong


def _complaints(command: ShownCommand, printed: str, code: str) -> list[str]:
    told = f"$ {command.line}\n{printed}"
    if (code != "0") != command.fails:
        return [f"exit code {code}: {told}"]
    return [] if command.keeps_its_promise(printed) else [f"promised {command.promised}, but printed: {told}"]


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize("page", [p for p, found in PAGES.items() if set(found) - set(NOT_RUN)], ids=name)
def test_a_page_s_commands_do_what_it_says(page: Path, folder: Path, jobs: Path, values: dict[str, str]) -> None:
    found = [block for block in PAGES[page] if block not in NOT_RUN]
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    assert type_them(found, folder, values, {**os.environ, "CEFR_BATCH_JOBS": str(jobs), "PATH": programs}) == []


@pytest.mark.parametrize("block", NOT_RUN, ids=lambda block: f"{name(block.page)}:{block.line}")
def test_a_block_that_is_not_run_says_why(block: Block) -> None:
    pytest.skip(block.not_run or f"needs {block.needs}")
