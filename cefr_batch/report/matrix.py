"""Every model on every level's examples: losses, and how they differ from the level's own model and from the base model.

The differences are paired: both models saw the same examples, which are resampled together (``evaluation.bootstrap``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import chain
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cefr_batch.evaluation.bootstrap import Interval, percentile_interval, resample
from cefr_batch.evaluation.statistics import ExampleSums, LossPart, by_unit
from cefr_batch.records.evaluations import EvaluatedModel, SetEvaluation
from cefr_batch.records.level_figures import LevelFigures, LevelFiguresByMode
from cefr_batch.records.losses import EvaluatedExample, ExampleScore
from cefr_batch.report.collect import Report, Result

Vector = NDArray[np.float64]
PARTS: tuple[LossPart, ...] = ("response", "full")


@dataclass(frozen=True)
class LossDifference:
    """How much higher a model's loss is than another's on the same examples, in nats a token; ``examples``: how many."""

    value: float
    interval: Interval | None
    examples: int

    @property
    def exceeds_noise(self) -> bool:
        """Whether there is an interval, and it excludes 0."""
        return self.interval is not None and self.interval.excludes_zero


@dataclass(frozen=True)
class SetSums:
    """A model's summed negative log-likelihood in nats and predicted tokens, of each example of the set ``origin`` (the
    SHA-256 of its file)."""

    examples: tuple[ExampleSums, ...]
    origin: str

    @property
    def loss(self) -> float:
        """The mean over the tokens."""
        nll, tokens = np.sum([example.whole for example in self.examples], axis=0)
        return float(nll / tokens)

    def minus(self, other: SetSums) -> LossDifference | None:
        """Over the examples that both have, from the first on; None if the models do not predict the same tokens of them,
        such as with different tokenizers."""
        pairs = list(zip(self.examples, other.examples, strict=False))
        tokens = sum(one.whole[1] for one, _ in pairs)
        if not tokens or any(one.whole[1] != another.whole[1] for one, another in pairs):
            return None
        differences = [_difference(one, another) for one, another in pairs]
        apart, counts = by_unit(differences)[0]

        def drawn(chosen: NDArray[np.int64]) -> Vector:
            with np.errstate(invalid="ignore"):
                return np.asarray(apart[chosen].sum(axis=1) / counts[chosen].sum(axis=1))

        n = len(apart)
        found = percentile_interval(resample(n, drawn, key=repr((self.origin, n))), n) if n > 1 else None
        return LossDifference(float(apart.sum() / tokens), found, len(pairs))


def _difference(one: ExampleSums, other: ExampleSums) -> ExampleSums:
    """Of the same tokens."""

    def apart(a: Sequence[float], b: Sequence[float]) -> tuple[float, ...]:
        return a[0] - b[0], a[1]

    of_sentences = {n: apart(own, other.sentences[n]) for n, own in one.sentences.items() if n in other.sentences}
    return ExampleSums(apart(one.whole, other.whole), of_sentences)


@dataclass(frozen=True)
class PartCell:
    """One part of the tokens: the loss, and its differences to the set's own model and to the model's base model."""

    loss: float
    to_own: LossDifference | None
    to_base: LossDifference | None


@dataclass(frozen=True)
class MatrixCell:
    """A model on a set; ``own``: the set is the one of the model's own level. ``levels``: of the greedy answers."""

    examples: int
    own: bool
    parts: dict[LossPart, PartCell]
    levels: LevelFigures | None

    @property
    def response(self) -> PartCell:
        """Over the tokens of the responses."""
        return self.parts["response"]


@dataclass(frozen=True)
class MatrixColumn:
    """A set of examples, by the SHA-256 of its file; ``owner``: the index of its level's own model, None for a file."""

    label: str
    origin: str
    owner: int | None


@dataclass(frozen=True)
class MatrixRow:
    """A model, a cell for each column; None where it was not evaluated. ``base``: a model before fine-tuning."""

    label: str
    base: bool
    cells: tuple[MatrixCell | None, ...]


@dataclass(frozen=True)
class Matrix:
    """Tuned models in the order of the levels, then the base models (one, unless the runs have several)."""

    columns: tuple[MatrixColumn, ...]
    rows: tuple[MatrixRow, ...]

    @property
    def tuned(self) -> tuple[MatrixRow, ...]:
        """The rows of tuned models."""
        return tuple(row for row in self.rows if not row.base)

    @property
    def base(self) -> tuple[MatrixRow, ...]:
        """The rows of base models."""
        return tuple(row for row in self.rows if row.base)


@lru_cache(maxsize=1)  # every format of a report asks for it
def matrix(report: Report) -> Matrix | None:
    """The newest run of each level on all sets; None unless one was evaluated on a set that is not its own."""
    results = [(report.label(entry), entry.results[0]) for entry in report.with_figures]
    found = _Sources(tuple(result for _, result in results))
    columns = tuple(_columns(results))
    if not any(column.owner != i and found.tuned(i, column) for i in range(len(results)) for column in columns):
        return None
    rows = [
        MatrixRow(label, False, tuple(_cell(found, index, column) for column in columns))
        for index, (label, _) in enumerate(results)
    ]
    return Matrix(columns, (*rows, *_base_rows(found, columns)))


def _columns(results: Sequence[tuple[str, Result]]) -> Iterator[MatrixColumn]:
    """The levels' own sets, then all others."""
    seen: set[str] = set()
    for index, (label, result) in enumerate(results):
        origin = result.metrics.data.eval_sha256
        if result.evaluated and origin not in seen:
            yield MatrixColumn(label, origin, index)
        seen.add(origin)
    for _, result in results:
        for one in result.evaluations:
            if one.task.eval_sha256 not in seen:
                yield MatrixColumn(one.task.label, one.task.eval_sha256, None)
            seen.add(one.task.eval_sha256)


@dataclass(frozen=True)
class _Sources:
    """Where the losses of models are: a run has its own set's in its results, and those of others beside them."""

    results: tuple[Result, ...]
    _made: dict[tuple[int | str, str], _Source | None] = field(default_factory=dict)  # every cell asks

    @cached_property
    def base_models(self) -> tuple[str, ...]:
        """What each run started from: losses of different models, or of prompts of another form, are not compared."""
        return tuple(_base_model(result) for result in self.results)

    def tuned(self, index: int, column: MatrixColumn) -> _Source | None:
        """The model of a run on a set."""
        return self._once((index, column.origin), lambda: self._tuned(index, column))

    def _tuned(self, index: int, column: MatrixColumn) -> _Source | None:
        result = self.results[index]
        if result.metrics.data.eval_sha256 == column.origin:
            return _own(result, "tuned")
        return _beside(result, "tuned", column.origin)

    def base(self, model: str, column: MatrixColumn) -> _Source | None:
        """A base model on a set, from any run that started from it."""
        return self._once((model, column.origin), lambda: self._base(model, column))

    def _base(self, model: str, column: MatrixColumn) -> _Source | None:
        alike = [result for result, one in zip(self.results, self.base_models, strict=True) if one == model]
        own = (_own(one, "base") for one in alike if one.metrics.data.eval_sha256 == column.origin)
        beside = (_beside(one, "base", column.origin) for one in alike)
        return next((one for one in chain(own, beside) if one), None)

    def _once(self, key: tuple[int | str, str], make: Callable[[], _Source | None]) -> _Source | None:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


@dataclass(frozen=True)
class _Source:
    sums: dict[LossPart, SetSums]
    levels: LevelFigures | None


def _own(result: Result, model: EvaluatedModel) -> _Source | None:
    """On the run's own set, from what the run itself stored."""
    if not result.evaluated:
        return None
    when: Literal["tuned", "baseline"] = "tuned" if model == "tuned" else "baseline"
    origin = result.metrics.data.eval_sha256
    sums = {part: SetSums(tuple(_own_sums(one, when, part) for one in result.evaluated), origin) for part in PARTS}
    levels: LevelFiguresByMode | None = getattr(result.levels, when) if result.levels else None
    return _Source(sums, levels.greedy if levels else None)


def _beside(result: Result, model: EvaluatedModel, origin: str) -> _Source | None:
    """On another set, from what was evaluated later: with the most examples, then the newest."""
    of_set = [one for one in result.evaluations if (one.task.model, one.task.eval_sha256) == (model, origin)]
    if not of_set:
        return None
    one = max(of_set, key=lambda one: (one.task.examples, one.complete_at))
    return _Source({part: _sums(one, part) for part in PARTS}, one.levels.greedy if one.levels else None)


def _own_sums(example: EvaluatedExample, when: Literal["tuned", "baseline"], part: LossPart) -> ExampleSums:
    whole = getattr(getattr(example, when), part), float(getattr(example.tokens, part))
    return ExampleSums(whole, {one.number: (getattr(one, when), float(one.tokens)) for one in example.sentences})


def _sums(one: SetEvaluation, part: LossPart) -> SetSums:
    return SetSums(tuple(_score_sums(score, part) for score in one.scores), one.task.eval_sha256)


def _score_sums(score: ExampleScore, part: LossPart) -> ExampleSums:
    whole = getattr(score.nll, part), float(getattr(score.tokens, part))
    return ExampleSums(whole, {sentence.number: (sentence.nll, float(sentence.tokens)) for sentence in score.sentences})


def _base_model(result: Result) -> str:
    settings = result.spec.get("model")
    model = settings if isinstance(settings, dict) else {}
    revision = result.metrics.model_revision or model.get("revision") or "main"
    return f"{result.metrics.model} ({revision}, {model.get('prompt', 'alpaca')})"


def _base_rows(found: _Sources, columns: Sequence[MatrixColumn]) -> Iterator[MatrixRow]:
    models = list(dict.fromkeys(found.base_models))
    for model in models:
        cells = []
        for column in columns:
            source = found.base(model, column)
            cells.append(_made(source, _owners(found, column), None, own=False) if source else None)
        yield MatrixRow("" if len(models) == 1 else model, True, tuple(cells))


def _cell(found: _Sources, index: int, column: MatrixColumn) -> MatrixCell | None:
    source = found.tuned(index, column)
    if source is None:
        return None
    own = column.owner == index
    base = found.base(found.base_models[index], column)
    return _made(source, None if own else _owners(found, column), base, own=own)


def _owners(found: _Sources, column: MatrixColumn) -> _Source | None:
    return None if column.owner is None else found.tuned(column.owner, column)


def _made(source: _Source, owners: _Source | None, base: _Source | None, *, own: bool) -> MatrixCell:
    parts = {
        part: PartCell(
            sums.loss,
            sums.minus(owners.sums[part]) if owners else None,
            sums.minus(base.sums[part]) if base else None,
        )
        for part, sums in source.sums.items()
    }
    return MatrixCell(len(source.sums["full"].examples), own, parts, source.levels)
