"""Must show: an export is made once, whole or not at all, goes on after a kill, and is never kept if it is wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from support.exports import RUN, StandInConverter, check, complete_run, merged_folder
from support.released import released_store

from cefr_batch.errors import Damaged, ExportError, NotFound, StoreError
from cefr_batch.export import gguf, make
from cefr_batch.export.stored import export_gguf, fetch_gguf, fetch_part
from cefr_batch.records import layout
from cefr_batch.records.document import dump
from cefr_batch.records.exports import CheckAnswer, ExportCheck, ExportRecord
from cefr_batch.records.stages import StoredObject
from cefr_batch.runner.artifacts import select_artifacts, verify_run
from cefr_batch.runner.exports import read_export, stored_exports
from cefr_batch.store.local import LocalStore

FILE = f"exports/gguf-f16/{RUN}-f16.gguf"
RECORD = layout.run_key(RUN, layout.export_name("gguf-f16"))


@pytest.fixture
def run(store: LocalStore, tmp_path: Path) -> str:
    return complete_run(store, merged_folder(tmp_path / "merged"))


@pytest.fixture
def converter(monkeypatch: pytest.MonkeyPatch) -> StandInConverter:
    """In place of the real one; and llama.cpp is not installed."""
    stand_in = StandInConverter()
    monkeypatch.setattr(gguf, "run_converter", stand_in)
    for module in (gguf, make):
        monkeypatch.setattr(module, "converter_version", lambda: "a stand-in 1.0")
    monkeypatch.setattr(make, "can_verify", lambda: False)
    return stand_in


def verifying(monkeypatch: pytest.MonkeyPatch, answer: CheckAnswer) -> None:
    """llama.cpp is installed, and this is what it finds."""
    monkeypatch.setattr(make, "can_verify", lambda: True)
    monkeypatch.setattr(make, "_ask", lambda *_: answer)


def test_it_lies_in_the_store_beside_the_manifest_with_its_hashes(
    run: str, store: LocalStore, converter: StandInConverter
) -> None:
    manifest = store.get(layout.run_key(run, layout.MANIFEST))
    exported = export_gguf(store, run, "f16")
    assert not exported.was_there
    assert exported.where == store.locate(f"runs/{run}/exports/gguf-f16")
    record = store.get_record(RECORD, ExportRecord)
    assert record == exported.record
    assert [one.key for one in record.objects] == [FILE, "exports/gguf-f16/Modelfile"]
    for one in record.objects:
        data = store.get(layout.run_key(run, one.key))
        assert (len(data), hashlib.sha256(data).hexdigest()) == (one.size, one.sha256)
    assert (record.check, record.converter) == (None, "a stand-in 1.0")
    assert record.not_verified.startswith("llama.cpp is not installed on the machine that made this file")
    assert store.get(layout.run_key(run, layout.MANIFEST)) == manifest
    assert stored_exports(store, run) == ["gguf-f16"]
    assert not list(layout.pulled_cache(store.url, run).glob("exports/*")), (
        "it is in the store, and not on this disk twice"
    )


def test_what_is_there_stays(run: str, store: LocalStore, converter: StandInConverter) -> None:
    first = export_gguf(store, run, "f16")
    again = export_gguf(store, run, "f16")
    assert (again.was_there, again.record) == (True, first.record)
    assert converter.made == [f"{run}-f16.gguf"]


def test_one_that_is_not_whole_is_made_again(run: str, store: LocalStore, converter: StandInConverter) -> None:
    export_gguf(store, run, "f16")
    store.put(layout.run_key(run, FILE), b"cut")
    assert not export_gguf(store, run, "f16").was_there
    assert len(store.get(layout.run_key(run, FILE))) > 3


def test_one_of_another_model_of_that_name_is_made_again(
    run: str, store: LocalStore, converter: StandInConverter, tmp_path: Path
) -> None:
    first = export_gguf(store, run, "f16")
    other = merged_folder(tmp_path / "other")
    (other / "model.safetensors").write_bytes(b"other weights")
    complete_run(store, other)
    again = export_gguf(store, run, "f16")
    assert not again.was_there
    assert again.record.merged_sha256 != first.record.merged_sha256


def test_killed_after_the_conversion_it_does_not_convert_again(
    run: str, store: LocalStore, converter: StandInConverter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as at_first:
        at_first.setattr(make, "modelfile", killed)
        with pytest.raises(KeyboardInterrupt):
            export_gguf(store, run, "f16")
    assert not store.exists(RECORD)
    assert export_gguf(store, run, "f16").record.objects[0].key == FILE
    assert converter.made == [f"{run}-f16.gguf"]


def test_killed_while_it_stores_nothing_counts(
    run: str, store: LocalStore, converter: StandInConverter, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_file = LocalStore.put_file

    def fails(self: LocalStore, key: str, path: Path) -> str:
        if path.suffix == ".gguf":
            raise KeyboardInterrupt
        return put_file(self, key, path)

    export_gguf(store, run, "f16")
    store.put(layout.run_key(run, FILE), b"cut")
    with monkeypatch.context() as at_first:
        at_first.setattr(LocalStore, "put_file", fails)
        with pytest.raises(KeyboardInterrupt):
            export_gguf(store, run, "f16")
    assert stored_exports(store, run) == [], "a file of it may be old and another new"
    assert export_gguf(store, run, "f16").record.objects[0].key == FILE


def test_a_wrong_one_is_not_kept_and_says_all_that_is_wrong(
    run: str, store: LocalStore, converter: StandInConverter, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifying(monkeypatch, CheckAnswer(check=check(equal_prompts=3, first_other_prompt="<|im_start|>", ends=False)))
    with pytest.raises(
        ExportError, match="is not the model that was trained, so it is not kept: its chat template"
    ) as caught:
        export_gguf(store, run, "q8_0")
    assert "it does not stop at the token" in str(caught.value)
    assert stored_exports(store, run) == []
    assert not list(layout.pulled_cache(store.url, run).rglob("*.gguf"))


def test_a_file_that_llama_cpp_refuses_is_not_kept(
    run: str, store: LocalStore, converter: StandInConverter, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifying(monkeypatch, CheckAnswer(refused="llama.cpp does not load it: unknown architecture"))
    with pytest.raises(ExportError, match="unknown architecture"):
        export_gguf(store, run, "f16")
    assert stored_exports(store, run) == []


def test_one_that_was_not_verified_is_when_it_can_be(
    run: str, store: LocalStore, converter: StandInConverter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert export_gguf(store, run, "f16", tmp_path / "out").record.check is None
    verifying(monkeypatch, CheckAnswer(check=check()))
    exported = export_gguf(store, run, "f16", tmp_path / "out")
    assert exported.record.check == check()
    assert exported.record.not_verified == ""
    assert converter.made == [f"{run}-f16.gguf"], "the file is the same"
    assert export_gguf(store, run, "f16", tmp_path / "out").was_there


def test_a_verification_that_breaks_off_says_nothing_of_the_file(
    run: str, store: LocalStore, converter: StandInConverter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real process: it fails at once, since these weights are none."""
    monkeypatch.setattr(make, "can_verify", lambda: True)
    record = export_gguf(store, run, "f16").record
    assert record.check is None
    assert record.not_verified


def test_into_a_folder_the_store_stays_as_it_is(
    run: str, store: LocalStore, converter: StandInConverter, tmp_path: Path
) -> None:
    before = [one.key for one in store.objects("runs/")]
    exported = export_gguf(store, run, "f16", tmp_path / "out")
    assert sorted(file.name for file in Path(exported.where).iterdir()) == [
        "Modelfile",
        "README.md",
        "export.json",
        f"{run}-f16.gguf",
    ]
    assert exported.where == str(tmp_path / "out" / run / "gguf-f16")
    assert [one.key for one in store.objects("runs/")] == before


def test_pull_and_verify_have_the_exports_too(
    run: str, store: LocalStore, converter: StandInConverter, tmp_path: Path
) -> None:
    with pytest.raises(NotFound, match="stored no 'exports'"):
        select_artifacts(store, run, ["exports"])
    whole = len(select_artifacts(store, run).items)
    export_gguf(store, run, "f16")
    assert len(select_artifacts(store, run).items) == whole + 4
    exports = select_artifacts(store, run, ["exports"])
    exports.fetch(tmp_path / "pulled")
    assert (tmp_path / "pulled" / FILE).read_bytes() == store.get(layout.run_key(run, FILE))
    assert verify_run(store, run).problems == {}
    store.put(layout.run_key(run, FILE), b"x" * store.get_record(RECORD, ExportRecord).objects[0].size)
    assert list(verify_run(store, run).problems) == [store.locate(layout.run_key(run, FILE))]


DAMAGE = {
    "no JSON": lambda _: b"damaged",
    "another run's": lambda record: dump(record.model_copy(update={"run": "tiny-b1-peft-v9"})),
    "no run's": lambda record: dump(record.model_copy(update={"run": "A b"})),
    "another kind's": lambda record: dump(record.model_copy(update={"kind": "q8_0"})),
    "without a file": lambda record: dump(record.model_copy(update={"objects": []})),
    "of files elsewhere": lambda record: dump(record.model_copy(update={"objects": [merged_object(record)]})),
}


def merged_object(record: ExportRecord) -> StoredObject:
    return record.objects[0].model_copy(update={"key": "merged/model.gguf"})


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=list(DAMAGE))
def test_a_damaged_record_spoils_its_export_alone_and_is_made_again(
    damage: Callable[[ExportRecord], bytes],
    run: str,
    store: LocalStore,
    converter: StandInConverter,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole = select_artifacts(store, run).items
    other = export_gguf(store, run, "q8_0").record
    with_other = select_artifacts(store, run).items
    store.put(RECORD, damage(export_gguf(store, run, "f16").record))
    for act in (lambda: read_export(store, run, "gguf-f16"), lambda: fetch_gguf(store, run)):
        with pytest.raises(Damaged, match=r"gguf-f16/export\.json"):
            act()
    assert (len(with_other) - len(whole), select_artifacts(store, run).items) == (4, with_other)
    assert f"an export of {run} is left out: {store.locate(RECORD)} " in caplog.text
    (problem,) = verify_run(store, run).problems.items()
    assert problem[0] == store.locate(RECORD)
    assert read_export(store, run, "gguf-q8_0") == other
    assert not export_gguf(store, run, "f16").was_there
    assert verify_run(store, run).problems == {}
    assert fetch_gguf(store, run).name == f"{run}-f16.gguf"


def test_the_record_of_a_newer_version_is_left_alone(run: str, store: LocalStore, converter: StandInConverter) -> None:
    record = export_gguf(store, run, "f16").record
    newer = dump(record).replace(b'"schema": 1', b'"schema": 2')
    store.put(RECORD, newer)
    with pytest.raises(StoreError, match="upgrade cefr-batch to read it"):
        export_gguf(store, run, "f16")
    assert store.get(RECORD) == newer
    assert select_artifacts(store, run, ["merged"]).items
    assert list(verify_run(store, run).problems) == [store.locate(RECORD)]


def test_the_card_lies_beside_the_file_with_what_the_verification_found(
    run: str, store: LocalStore, converter: StandInConverter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_gguf(store, run, "f16")
    card = layout.run_key(run, layout.export_card("gguf-f16"))
    assert "Not verified: llama.cpp is not installed on the machine that made this file" in store.get(card).decode()
    verifying(monkeypatch, CheckAnswer(check=check(equal_texts=18, differences=[])))
    monkeypatch.setattr(ExportCheck, "problems", lambda *_: iter(()))
    export_gguf(store, run, "f16")
    assert "| greedy texts equal to the merged model's | 18 of 20 |" in store.get(card).decode()
    assert f"{run}-f16.gguf" in ModelCard(store.get(card).decode()).text
    select_artifacts(store, run, ["exports"]).fetch(tmp_path / "pulled")
    assert (tmp_path / "pulled" / "exports" / "gguf-f16" / "README.md").read_bytes() == store.get(card)


def test_a_part_to_upload_is_fetched_or_made_with_a_card(
    run: str, store: LocalStore, converter: StandInConverter, caplog: pytest.LogCaptureFixture
) -> None:
    folder = fetch_part(store, run, "gguf", "me/model")
    assert [
        f"{run}-f16.gguf is not verified: llama.cpp is not installed on the machine that made this file" in text
        for text in caplog.messages
    ] == [True]
    assert sorted(file.name for file in folder.iterdir()) == ["Modelfile", "README.md", f"{run}-f16.gguf"]
    for part in ("gguf", "merged", "adapter"):
        folder = fetch_part(store, run, part, "me/model")
        assert "hf download me/model" in ModelCard.load(folder / "README.md").text, part
    assert (fetch_part(store, run, "merged", "me/model") / "config.json").is_file()


def test_a_run_of_0_1_0_has_a_card_too(tmp_path: Path) -> None:
    store = released_store(tmp_path)
    for part in ("adapter", "merged"):
        folder = fetch_part(store, "tiny-b1-peft-v1", part, "me/model")
        text = ModelCard.load(folder / "README.md").text
        assert "An early version of cefr-batch trained it, and wrote no chat template" in text
        assert "## Figures" in text
