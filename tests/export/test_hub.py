"""Must show: every file goes to the hub as it is, and the token is nowhere but in the requests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from support.exports import complete_run, merged_folder
from support.upload_hub import UploadHub, running_upload_hub

from cefr_batch.records import layout
from cefr_batch.store.local import LocalStore

TOKEN = "hf_averysecrettokenofsomebody"


def export(store: LocalStore, hub: UploadHub, *options: str, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
    """The command as users run it, with a home of its own."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": token,
        "HF_HOME": str(Path(os.environ["CEFR_BATCH_CACHE"]) / "hf"),
        "HF_HUB_DISABLE_XET": "1",  # a protocol that the stand-in does not speak
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    command = [sys.executable, "-m", "cefr_batch", "export", *options, "--to", "hub", "--store", store.url]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.fixture
def run(store: LocalStore, tmp_path: Path) -> str:
    return complete_run(store, merged_folder(tmp_path / "merged"))


def stored(store: LocalStore, run: str, part: str) -> dict[str, bytes]:
    prefix = layout.run_key(run, part) + "/"
    return {one.key.removeprefix(prefix): store.get(one.key) for one in store.objects(prefix)}


@pytest.mark.slow
def test_every_file_arrives_and_the_token_is_nowhere(run: str, store: LocalStore, tmp_path: Path) -> None:
    with running_upload_hub() as hub:
        done = export(store, hub, run, "--repo", "me/model", "--part", "merged", "--private")
        assert (done.returncode, done.stderr) == (0, "")
        card = hub.files.pop("README.md").decode()
        assert "hf download me/model" in ModelCard(card).text
        assert hub.files == stored(store, run, "merged")
        assert [(one["organization"], one["name"], one["visibility"]) for one in hub.created] == [
            ("me", "model", "private")
        ]
        assert hub.tokens == {f"Bearer {TOKEN}"}
        assert f"Uploaded: {hub.url}/me/model" in done.stdout
        blobs = len(hub.blobs)
        again = export(store, hub, run, "--repo", "me/model", "--part", "merged", "--private")
        assert (again.returncode, len(hub.blobs)) == (0, blobs)
    assert TOKEN not in done.stdout + done.stderr
    holding = [file for file in tmp_path.rglob("*") if file.is_file() and TOKEN.encode() in file.read_bytes()]
    assert holding == []


@pytest.mark.slow
def test_a_dry_run_lists_every_file_and_sends_nothing(run: str, store: LocalStore) -> None:
    with running_upload_hub() as hub:
        done = export(store, hub, run, "--repo", "me/model", "--part", "merged", "--dry-run", token="")
        assert (done.returncode, done.stderr) == (0, "")
        assert (hub.created, hub.files, hub.tokens) == ([], {}, set())
    listed = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")}
    assert listed == {*stored(store, run, "merged"), "README.md"}
    assert done.stdout.endswith("Nothing was uploaded (--dry-run).\n")


@pytest.mark.slow
def test_without_a_token_it_says_where_it_is_read_from(run: str, store: LocalStore) -> None:
    with running_upload_hub() as hub:
        done = export(store, hub, run, "--repo", "me/model", token="")
        assert done.returncode == 2
        assert (
            "an upload needs a token of the hub with write access in the environment: export HF_TOKEN=…" in done.stderr
        )
        assert hub.tokens == set()


@pytest.mark.slow
def test_a_token_that_may_not_write_is_told_as_such(run: str, store: LocalStore) -> None:
    with running_upload_hub(refuses=403) as hub:
        done = export(store, hub, run, "--repo", "me/model")
    assert done.returncode == 1
    assert "the upload to me/model failed: " in done.stderr
    assert "does the token in HF_TOKEN allow writing there?" in done.stderr
    assert TOKEN not in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--to hub needs --repo OWNER/NAME"),
        (["--repo", "not a name"], "--repo: Repo id must"),
    ],
)
def test_a_name_that_is_none_is_a_usage_error(options: list[str], message: str, run: str, store: LocalStore) -> None:
    with running_upload_hub() as hub:
        done = export(store, hub, run, *options)
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr
