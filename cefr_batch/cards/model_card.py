"""A run's model card: from what the store has of the run to a README.md as the Hugging Face hub reads it.

Light, and without network. It names no folder of a machine: others read it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import cycle, islice
from pathlib import Path
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined

from cefr_batch import __version__
from cefr_batch.config.schema import STARTERS, RunSpec
from cefr_batch.data.build import instruction_for
from cefr_batch.data.chat_template import FILE as CHAT_TEMPLATE
from cefr_batch.errors import NotFound
from cefr_batch.evaluation.bootstrap import FEW_UNITS
from cefr_batch.evaluation.statistics import LossPart, Resampled, Sums
from cefr_batch.files import write_bytes
from cefr_batch.models.resolve import SMOLLM2, is_on_hub, public_name, without_folder
from cefr_batch.records import layout
from cefr_batch.records.exports import ExportRecord
from cefr_batch.records.level_figures import LevelFigures, WithInterval
from cefr_batch.records.losses import EvaluationRecord
from cefr_batch.records.metrics import Metrics
from cefr_batch.runner.submission import read_spec
from cefr_batch.store.base import Store

ModelPart = Literal["adapter", "merged"]  # each a folder of the run
_LIBRARY = {"adapter": "peft", "merged": "transformers", "gguf": "gguf"}
_RELATION = {"adapter": "adapter", "merged": "finetune", "gguf": "quantized"}
# Of the request that a card shows.
_WORDS = ("travel", "decide", "invite", "story", "music", "plan", "enjoy", "weather", "holiday", "friend")
_READY_WORDS = 2  # where the training data has requests of its own


@dataclass(frozen=True)
class CardFacts:
    """What a card says of a complete run. ``evaluation``: None where the run stored no losses of single examples.
    ``chat_template``: whether the model's folder has the one that makes the trained prompt; early versions wrote none."""

    run: str
    spec: RunSpec
    metrics: Metrics
    evaluation: EvaluationRecord | None = None
    chat_template: bool = True

    @classmethod
    def read(cls, documents: Store, run: str) -> CardFacts:
        """Of a complete run, by its documents in a store. Raises ``StoreError``."""
        metrics = documents.get_record(layout.run_key(run, layout.METRICS), Metrics)
        try:
            evaluation = documents.get_record(layout.run_key(run, layout.EVALUATION), EvaluationRecord)
        except NotFound:
            evaluation = None
        return cls(run, read_spec(documents, run), metrics, evaluation)

    @property
    def base(self) -> str:
        """The base model's name as others know it."""
        return public_name(self.spec.model)

    @property
    def base_is_public(self) -> bool:
        """Whether others find the base model by this name, on the hub."""
        return is_on_hub(self.spec.model)

    @property
    def base_is_packaged(self) -> bool:
        """Whether the base model is the small one of a Python package."""
        return self.spec.model.name == SMOLLM2

    @property
    def revision(self) -> str | None:
        """The base model's commit, or the revision that was asked for."""
        return self.metrics.model_revision or self.spec.model.revision

    @property
    def request(self) -> str:
        """What a user says to the model, with as many words as the examples have that are built of pairs."""
        data = self.spec.data
        words = islice(cycle(_WORDS), data.words_per_example if data.source else _READY_WORDS)
        return instruction_for(tuple(words), self.spec.level)

    @property
    def source(self) -> str:
        """Where the data comes from; of the user's own files the name alone."""
        data = self.spec.data
        if data.source in STARTERS:
            return "the starter corpus that comes with cefr-batch"
        named = [without_folder(name) for name in (data.source, data.train, data.eval) if name]
        return f"own data ({', '.join(named)})"

    @property
    def level_figures(self) -> LevelFigures | None:
        """Of what the tuned model wrote greedily."""
        levels = self.metrics.levels
        return levels.tuned.greedy if levels and levels.tuned else None

    @cached_property
    def reductions(self) -> dict[LossPart, WithInterval]:
        """By how many percent training lowered the loss over the responses and all tokens, with the report's intervals."""
        return {"response": self._reduction("response"), "full": self._reduction("full")}

    def _reduction(self, part: LossPart) -> WithInterval:
        value: float = getattr(self.metrics.reduction, part).loss_percent
        rows = self.evaluation.examples if self.evaluation else []
        drawn = Resampled.of(Sums.of(rows, part, self.metrics.data.eval_sha256)) if rows else None
        found = drawn.interval() if drawn else None
        return WithInterval(value=value, low=found.low, high=found.high) if found else WithInterval(value=value)


def model_card(facts: CardFacts, model: ModelPart | ExportRecord, repository: str | None = None) -> str:
    """The README.md for the folder of a run's adapter, of its merged model, or of an export to GGUF. ``repository``: where
    on the hub the folder is."""
    export = model if isinstance(model, ExportRecord) else None
    kind = "gguf" if isinstance(model, ExportRecord) else model
    template = _environment().get_template("model_card.md.jinja")
    body = template.render(
        facts=facts,
        kind=kind,
        export=export,
        m=facts.metrics,
        spec=facts.spec,
        version=__version__,
        few_units=FEW_UNITS,
        repository=repository,
    )
    return f"---\n{_head(facts, kind)}\n---\n\n{body.strip()}\n"


def write_card(
    folder: Path, documents: Store, run: str, model: ModelPart | ExportRecord, repository: str | None = None
) -> None:
    """Write the card of a complete run's model into its folder. ``documents``: the store, see ``CardFacts.read``."""
    facts = CardFacts.read(documents, run)
    if not isinstance(model, ExportRecord):
        facts = replace(facts, chat_template=(folder / CHAT_TEMPLATE).is_file())
    write_bytes(folder / layout.CARD, model_card(facts, model, repository).encode())


def _head(facts: CardFacts, kind: str) -> str:
    """The metadata, by the hub's own library: https://huggingface.co/docs/hub/model-cards"""
    from huggingface_hub import ModelCardData

    licence = facts.metrics.model_licence
    level = facts.spec.level.value.lower()
    data = ModelCardData(
        language="en",
        license=licence.id if licence else "unknown",
        license_name=licence.name if licence else None,
        license_link=licence.link if licence else None,
        library_name=_LIBRARY[kind],
        pipeline_tag="text-generation",
        tags=["cefr", f"cefr-{level}", "english", "education", "lora", "cefr-batch"],
        base_model=facts.base if facts.base_is_public else None,
        base_model_relation=_RELATION[kind] if facts.base_is_public else None,
    )
    return data.to_yaml().strip()


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("cefr_batch.cards", "templates"),
        autoescape=False,  # noqa: S701 (Markdown, not HTML; what others wrote stands in code)
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": _figure, "percent": _percent, "interval": _with_interval, "code": _code}
    environment.filters["without_folders"] = _without_folders
    return environment


def _figure(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} %"


def _with_interval(figure: WithInterval, digits: int = 2, unit: str = "") -> str:
    value = f"{figure.value:.{digits}f}{unit}"
    if figure.low is None or figure.high is None:
        return value
    return f"{value} ({figure.low:.{digits}f} … {figure.high:.{digits}f})"


def _code(text: object) -> str:
    """As code, on one line, whatever stands in it."""
    line = " ".join(str(text).split()).replace("|", "\\|")
    return f"`` {line} ``" if "`" in line else f"`{line}`"


def _without_folders(text: str) -> str:
    """Without the folders of this machine that an error names."""
    return re.sub(r"(?<![\w:/.])/(?:[^\s/'\"]+/)+", "", text)
