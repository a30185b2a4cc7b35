"""The adapter of a complete run, from which another run's training starts."""

from __future__ import annotations

from collections.abc import Iterator

from cefr_batch.config.load import recorded_spec
from cefr_batch.config.schema import RunSpec
from cefr_batch.errors import NotFound, Problem, SpecError
from cefr_batch.records import layout
from cefr_batch.records.layout import WorkDir
from cefr_batch.records.metrics import Metrics
from cefr_batch.records.spec import SpecRecord, StartingAdapter
from cefr_batch.store.base import Store
from cefr_batch.store.manifest import read_manifest
from cefr_batch.store.transfer import TransferItem, download

SETTING = "model.adapter"


def adapter_of(store: Store, run: str) -> StartingAdapter:
    """A complete run's adapter as its manifest lists it. Raises ``NotFound`` if the run is not complete or has none."""
    listed = {one.key: one for one in read_manifest(store, run).objects}
    weights = listed.get(layout.ADAPTER_WEIGHTS)
    if weights is None:
        raise NotFound(f"{run} has no {layout.ADAPTER_WEIGHTS} in {store.url}")
    revision = store.get_record(layout.run_key(run, layout.METRICS), Metrics).model_revision
    return StartingAdapter(run=run, size=weights.size, sha256=weights.sha256, model_revision=revision)


def check_adapter(store: Store, spec: RunSpec, commit: str | None) -> None:
    """Whether a run with these settings can start from the adapter that they name, if they name one. Blocks on the store.

    ``commit``: of the hub's model here; None for another model. Raises ``SpecError`` with everything that does not match,
    ``StoreError`` where the store fails.
    """
    run = spec.model.adapter
    if run is None:
        return
    try:
        before = _settings(store, run)
    except NotFound as exc:
        what = f"there is no run {run} in {store.url}; `cefr-batch list` shows the runs of a store"
        raise SpecError([Problem(SETTING, what)]) from exc
    if not store.exists(layout.run_key(run, layout.MANIFEST)):
        what = (
            f"{run} is not complete, and training starts from its adapter; submit again when `cefr-batch status {run}` "
        )
        raise SpecError([Problem(SETTING, f"{what}says SUCCEEDED")])
    try:
        adapter = adapter_of(store, run)
    except NotFound as exc:
        raise SpecError([Problem(SETTING, f"{exc}; name another run, or train it again")]) from exc
    if differing := list(_differences(spec, before, adapter.model_revision, commit)):
        raise SpecError([Problem(SETTING, f"{run} cannot be continued with other settings; set {' '.join(differing)}")])


def _settings(store: Store, run: str) -> RunSpec:
    key = layout.run_key(run, layout.SPEC)
    return recorded_spec(store.get_record(key, SpecRecord).spec, store.locate(key))


def _differences(spec: RunSpec, before: RunSpec, revision: str | None, commit: str | None) -> Iterator[str]:
    """The settings to give, with what they are now."""
    for key, here, there in (
        ("model.name", spec.model.name, before.model.name),
        ("model.revision", spec.model.revision, before.model.revision),
        ("lora.rank", spec.lora.rank, before.lora.rank),
        ("lora.alpha", spec.lora.alpha, before.lora.alpha),
        ("lora.target_modules", sorted(spec.lora.target_modules), sorted(before.lora.target_modules)),
    ):
        if here != there:
            yield f"{key}={_shown(there)} (now {_shown(here)})"
    same = (spec.model.name, spec.model.revision) == (before.model.name, before.model.revision)
    if same and revision and commit and revision != commit:
        yield f"model.revision={revision} (now {commit})"


def _shown(value: object) -> str:
    return "null" if value is None else str(value).replace("'", "").replace(" ", "")


def fetch_adapter(store: Store, adapter: StartingAdapter, work: WorkDir) -> None:
    """Bring an adapter's weights to the folder where training looks for them. Blocks; idempotent.

    Raises ``StoreError`` if they are gone, or not those that the run's manifest listed at submit.
    """
    key = layout.run_key(adapter.run, layout.ADAPTER_WEIGHTS)
    file = work.starting_adapter / layout.ADAPTER_WEIGHTS.rpartition("/")[2]
    download(store, [TransferItem(key, adapter.size, adapter.sha256)], lambda _: file)
