"""pull and verify."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.stored_runs import OBJECTS, add_complete, add_ended

from cefr_batch.errors import Unavailable
from cefr_batch.records import layout
from cefr_batch.store.local import LocalStore

RUN = "tiny-b1-peft-v1"
Command = Callable[..., Any]


def pulled(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def edit_manifest(store: LocalStore, change: Callable[[dict[str, Any]], None]) -> None:
    key = layout.run_key(RUN, layout.MANIFEST)
    manifest = store.get_json(key)
    change(manifest)
    store.put_json(key, manifest)


def test_pull_brings_every_object_of_the_manifest(cefr_batch: Command, store: LocalStore, tmp_path: Path) -> None:
    add_complete(store, RUN)
    result = cefr_batch("pull", RUN, "--to", str(tmp_path / "to"))
    assert (result.code, result.err) == (0, "")
    assert re.fullmatch(rf"{RUN}: 11 files, 9\d\.\d kB, verified, in .*/to/{RUN} \(\d+\.\d s\)\n", result.out)
    found = pulled(tmp_path / "to" / RUN)
    assert {name: data for name, data in found.items() if name in OBJECTS} == OBJECTS
    assert found.keys() - OBJECTS.keys() == {"spec.json", "metrics.json", "manifest.json"}
    assert found["manifest.json"] == store.get(layout.run_key(RUN, layout.MANIFEST)), "the copy can be checked again"


def test_pull_keeps_what_is_there_and_replaces_what_is_damaged(
    cefr_batch: Command, store: LocalStore, tmp_path: Path
) -> None:
    add_complete(store, RUN)
    to = tmp_path / "to"
    assert cefr_batch("pull", RUN, "--to", str(to)).code == 0
    kept, damaged = (to / RUN / name for name in ("merged/model.safetensors", "adapter/adapter_config.json"))
    before = kept.stat().st_mtime_ns
    damaged.write_bytes(b"[]")
    (to / RUN / "plots/training_loss.png").unlink()
    assert cefr_batch("pull", RUN, "--to", str(to)).code == 0
    assert kept.stat().st_mtime_ns == before
    assert damaged.read_bytes() == b"{}"
    assert pulled(to / RUN)["plots/training_loss.png"] == b"png"


@pytest.mark.parametrize(
    ("only", "names"),
    [
        (["adapter"], ["adapter/adapter_config.json", "adapter/adapter_model.safetensors"]),
        (["plots,report"], ["metrics.json", "plots/training_loss.png", "spec.json"]),
        (["tensorboard", "plots"], ["plots/training_loss.png", "tensorboard/events.out.tfevents.1"]),
        (["merged,merged"], ["merged/model.safetensors"]),
    ],
)
def test_pull_only_some_parts(
    only: list[str], names: list[str], cefr_batch: Command, store: LocalStore, tmp_path: Path
) -> None:
    add_complete(store, RUN)
    options = [part for name in only for part in ("--only", name)]
    assert cefr_batch("pull", RUN, *options, "--to", str(tmp_path / "to")).code == 0
    assert list(pulled(tmp_path / "to" / RUN)) == sorted([*names, "manifest.json"])


def test_pull_refuses_parts_that_do_not_exist(cefr_batch: Command, store: LocalStore, tmp_path: Path) -> None:
    add_complete(store, RUN, {"adapter/x": b"1"})
    result = cefr_batch("pull", RUN, "--only", "adapter,weights")
    assert result.code == 2
    assert "no part 'weights'; valid: adapter, merged, tensorboard, plots, report" in result.err
    result = cefr_batch("pull", RUN, "--only", "merged", "--to", str(tmp_path / "to"))
    assert (result.code, result.err) == (
        1,
        f"error: {RUN} stored no 'merged'; `cefr-batch pull {RUN}` fetches what it has\n",
    )


@pytest.mark.slow
def test_a_level_is_its_newest_complete_run(cefr_batch: Command, store: LocalStore, tmp_path: Path) -> None:
    add_complete(store, "tiny-b1-peft-v1", submitted_at="2026-01-01T00:00:00+00:00")
    add_complete(store, "tiny-b1-peft-v2", submitted_at="2026-01-02T00:00:00+00:00")
    add_ended(store, "tiny-b1-peft-v3", "FAILED", "2026-01-03T00:00:00+00:00")
    for command in (("pull", "--to", str(tmp_path / "to")), ("verify",)):
        result = cefr_batch(*command, "--level", "b1")
        assert result.code == 0
        assert result.out.startswith("tiny-b1-peft-v2: 11 ")
        result = cefr_batch(*command, "--level", "A1")
        assert "no run of level A1" in result.err


@pytest.mark.parametrize("command", ["pull", "verify"])
def test_a_run_that_is_not_complete_is_refused(command: str, cefr_batch: Command, store: LocalStore) -> None:
    add_ended(store, RUN, "FAILED", "2026-01-03T00:00:00+00:00")
    result = cefr_batch(command, RUN)
    assert result.code == 1
    assert f"{RUN} has not finished, so its files are not complete yet; see `cefr-batch status {RUN}`" in result.err
    assert not Path("pulled").exists()
    result = cefr_batch(command, "--level", "B1")
    assert "no complete run of level B1" in result.err


@pytest.mark.slow
@pytest.mark.parametrize("key", ["../../outside", "/etc/passwd", "a/../../b", "adapter\\..\\x", ""])
def test_pull_refuses_keys_that_leave_the_folder(
    key: str, cefr_batch: Command, store: LocalStore, tmp_path: Path
) -> None:
    add_complete(store, RUN)
    edit_manifest(store, lambda manifest: manifest["objects"][0].update(key=key))
    before = pulled(tmp_path)
    result = cefr_batch("pull", RUN, "--to", str(tmp_path / "to"))
    assert result.code == 1
    assert "refused object key" in result.err
    assert pulled(tmp_path) == before


def test_pull_does_not_write_through_a_link_out_of_the_folder(
    cefr_batch: Command, store: LocalStore, tmp_path: Path
) -> None:
    add_complete(store, RUN)
    (tmp_path / "outside").mkdir()
    (tmp_path / "to" / RUN).mkdir(parents=True)
    (tmp_path / "to" / RUN / "adapter").symlink_to(tmp_path / "outside")
    result = cefr_batch("pull", RUN, "--to", str(tmp_path / "to"))
    assert result.code == 1
    assert "a symbolic link on the way leads out of" in result.err
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.pop("objects"),
        lambda manifest: manifest["objects"][0].pop("sha256"),
        lambda manifest: manifest["objects"][0].update(size=-1),
        lambda manifest: manifest["objects"][0].update(sha256="abc"),
        lambda manifest: manifest["objects"].append("x"),
        lambda manifest: manifest.update(run="tiny-b1-peft-v9"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_one_sentence(
    change: Callable[[dict[str, Any]], None], cefr_batch: Command, store: LocalStore
) -> None:
    add_complete(store, RUN)
    edit_manifest(store, change)
    for command in ("pull", "verify"):
        result = cefr_batch(command, RUN)
        assert (result.code, result.out) == (1, "")
        assert result.err.count("\n") == 1
        assert "manifest" in result.err


def test_damaged_and_missing_objects_are_named(cefr_batch: Command, store: LocalStore, tmp_path: Path) -> None:
    add_complete(store, RUN)
    store.put(layout.run_key(RUN, "merged/model.safetensors"), b"x" * 256 * 300)
    result = cefr_batch("pull", RUN, "--to", str(tmp_path / "to"))
    assert result.code == 1
    assert "merged/model.safetensors is damaged" in result.err
    assert not (tmp_path / "to" / RUN / "merged/model.safetensors").exists()
    store.delete(layout.run_key(RUN, "plots/training_loss.png"))
    store.put(layout.run_key(RUN, "logs/attempt-1.log"), b"a line\nand one more\n")
    result = cefr_batch("verify", RUN)
    assert (result.code, result.out) == (1, "")
    assert "3 objects are not as recorded, or cannot be read:" in result.err
    assert "logs/attempt-1.log: has 20 bytes instead of 7" in result.err
    assert "model.safetensors: its checksum (SHA-256) differs from the recorded one" in result.err
    assert "training_loss.png: is missing" in result.err


def test_verify_tells_what_is_wrong_with_every_run(
    cefr_batch: Command, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (f"tiny-{level}-peft-v1" for level in ("a1", "a2", "b1"))
    for run in (first, second, third):
        add_complete(store, run)
    store.delete(layout.run_key(first, "plots/training_loss.png"))
    store.put(layout.run_key(second, layout.MANIFEST), b"damaged")
    result = cefr_batch("verify", first, second, third)
    assert (result.code, result.out.count("match its manifest")) == (1, 1)
    assert f"{second}/manifest.json is not valid JSON" in result.err
    missing = store.locate(f"runs/{first}/plots/training_loss.png")
    assert f"1 object is not as recorded, or cannot be read:\n  {missing}: is missing" in result.err

    read = LocalStore.get

    def away(self: LocalStore, key: str, **part: int) -> bytes:
        if second in key:
            raise Unavailable("the store does not answer")
        return read(self, key, **part)

    monkeypatch.setattr(LocalStore, "get", away)
    result = cefr_batch("verify", first, second, third)
    assert (result.code, result.out) == (1, ""), "the third is not tried"
    assert "the store does not answer" in result.err
    assert missing in result.err


def test_verify_says_what_it_has_verified_and_writes_nothing(
    cefr_batch: Command, store: LocalStore, tmp_path: Path
) -> None:
    add_complete(store, RUN)
    before = pulled(tmp_path)
    result = cefr_batch("verify", RUN)
    assert (result.code, result.err) == (0, "")
    assert re.fullmatch(rf"{RUN}: 11 objects, 9\d\.\d kB, match its manifest\n", result.out)
    assert pulled(tmp_path) == before


def test_a_full_disk_is_one_sentence(cefr_batch: Command, store: LocalStore, tmp_path: Path) -> None:
    add_complete(store, RUN)
    (entry,) = (e for e in store.get_json(f"runs/{RUN}/manifest.json")["objects"] if e["key"].startswith("merged/"))
    folder = tmp_path / "to" / RUN / "merged"
    folder.mkdir(parents=True)
    aside = folder / f".aside-{entry['sha256'][:16]}-model.safetensors"
    aside.symlink_to("/dev/full")
    result = cefr_batch("pull", RUN, "--to", str(tmp_path / "to"))
    assert (result.code, result.out) == (1, "")
    assert "merged/model.safetensors: No space left on device; free some space, then repeat this" in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize("folder", ["/proc/nowhere", "/dev/null"])
def test_a_folder_that_cannot_be_written_is_one_sentence(folder: str, cefr_batch: Command, store: LocalStore) -> None:
    add_complete(store, RUN)
    result = cefr_batch("pull", RUN, "--to", folder)
    assert result.code != 0
    assert f"{folder}" in result.err
    assert "Traceback" not in result.err


def test_manifest_of_a_pruned_run_still_verifies(cefr_batch: Command, store: LocalStore) -> None:
    add_complete(store, RUN)
    assert cefr_batch("prune", "--checkpoints", "--yes").code == 0
    assert "9 objects" in cefr_batch("verify", RUN).out
    assert json.loads(store.get(layout.run_key(RUN, layout.MANIFEST)))["run"] == RUN


def test_pull_brings_the_adapter_of_a_run_that_failed_after_training(
    cefr_batch: Command, store: LocalStore, tmp_path: Path
) -> None:
    add_ended(store, RUN, "FAILED", "2026-01-03T00:00:00+00:00")
    wanted = {name: data for name, data in OBJECTS.items() if name.startswith("adapter/")}
    objects = [
        {"key": name, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in wanted.items()
    ]
    for name, data in wanted.items():
        store.put(layout.run_key(RUN, name), data)
    record = {"stage": "train", "seconds": 1.0, "result": {"train": {}}, "objects": objects}
    store.put_json(layout.run_key(RUN, layout.stage_name("train")), record)
    store.put(layout.run_key(RUN, "merged/half"), b"of a merge that was wrong")
    to = str(tmp_path / "to")
    result = cefr_batch("pull", RUN, "--only", "adapter", "--to", to)
    assert (result.code, result.err) == (0, "")
    assert "2 files" in result.out
    assert result.out.endswith("; the run is not complete\n")
    assert pulled(tmp_path / "to" / RUN) == wanted
    result = cefr_batch("pull", RUN, "--only", "adapter,merged", "--to", to)
    assert result.code == 1
    rest = f"`cefr-batch pull {RUN} --only adapter` fetches the rest"
    assert f"{RUN} has not finished, and has no 'merged' to fetch yet; {rest}" in result.err
    store.put(layout.run_key(RUN, "adapter/adapter_model.safetensors"), b"another")
    result = cefr_batch("pull", RUN, "--only", "adapter", "--to", str(tmp_path / "other"))
    assert result.code == 1, "what the stage left was changed"
