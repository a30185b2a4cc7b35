"""``spec.json``: what a run is, written once when its name is claimed."""

from __future__ import annotations

from cefr_batch.records.document import Count, Part, Settings, Sha256, StoredRecord


class StartingAdapter(Part):
    """The adapter that training starts from: the run that it is from, and its file of weights as that run's manifest
    lists it. ``model_revision``: the hub's commit of the model that it was trained on, if there is one.
    """

    run: str
    size: Count  # bytes
    sha256: Sha256
    model_revision: str | None = None


class SpecRecord(StoredRecord):
    """A run's settings and data. ``spec`` holds the settings as recorded; ``config.load.recorded_spec`` makes a
    ``RunSpec`` of them, which may fail if another version wrote them.
    """

    run: str
    dataset: str  # SHA-256 of the dataset, its name in the store
    spec: Settings
    code_version: str | None = None
    submitted_at: str
    adapter: StartingAdapter | None = None  # of the run that the setting model.adapter names
