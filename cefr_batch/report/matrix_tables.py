"""The matrix model × level data in tables, as a heat map, and in words: how special each model is, and what it lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from cefr_batch.evaluation.statistics import LossPart
from cefr_batch.i18n.language import NONE
from cefr_batch.report.blocks import Table
from cefr_batch.report.markdown import Inline, Markdown, ReportLanguage, joined, strong
from cefr_batch.report.matrix import LossDifference, Matrix, MatrixCell, MatrixColumn, MatrixRow
from cefr_batch.report.measured_tables import figure

DIGITS = 3


def losses(found: Matrix, part: LossPart, t: ReportLanguage) -> Table:
    """Each model's loss on each set; a level's own model is bold. The colour: how far it is above the level's own."""
    captions = {"response": t("Response loss"), "full": t("Loss over all tokens")}

    def shown(cell: MatrixCell) -> Inline:
        figure = t.figure(cell.parts[part].loss, DIGITS)
        return strong(figure) if cell.own else figure

    return _table(captions[part], found, found.rows, shown, t, heat=heat(found, part))


def heat(found: Matrix, part: LossPart) -> list[list[float | None]]:
    """How far each cell is above the level's own model, from 0 to 1, which is the most of a tuned model; 1 for what is
    beyond. None where there is nothing to compare."""
    most = max((above for row in found.tuned for cell in row.cells if (above := _above(cell, part))), default=0.0)

    def share(cell: MatrixCell | None) -> float | None:
        above = _above(cell, part)
        return None if above is None else min(above / most, 1.0) if most else 0.0

    return [[share(cell) for cell in row.cells] for row in found.rows]


def _above(cell: MatrixCell | None, part: LossPart) -> float | None:
    """By how much the loss is above that of the level's own model, at least 0."""
    if cell is None or (not cell.own and cell.parts[part].to_own is None):
        return None
    difference = cell.parts[part].to_own
    return max(difference.value, 0.0) if difference else 0.0


def to_own(found: Matrix, t: ReportLanguage) -> Table:
    """The difference of response losses to each level's own model."""
    caption = t("How far above the level's own model")
    return _table(
        caption,
        found,
        found.rows,
        lambda cell: _shown(cell.response.to_own, t),
        t,
        keep=lambda one: one.owner is not None,
    )


def to_base(found: Matrix, t: ReportLanguage) -> Table:
    """The difference of response losses to the base model: above 0 it lost something."""
    caption = t("How far above the model before fine-tuning")
    return _table(caption, found, found.tuned, lambda cell: _shown(cell.response.to_base, t), t)


def measured(found: Matrix, t: ReportLanguage) -> Table:
    """The mean estimated level of what each model wrote for the words of each set."""

    def shown(cell: MatrixCell) -> Inline:
        written = cell.levels.written if cell.levels else None
        return figure(written.mean, t) if written else NONE

    return _table(t("Levels of what the models write"), found, found.rows, shown, t)


def has_levels(found: Matrix) -> bool:
    """Whether sentences were written for a set that is not the model's own."""
    return any(cell and not cell.own and cell.levels for row in found.tuned for cell in row.cells)


def _table(
    caption: Inline,
    found: Matrix,
    rows: Sequence[MatrixRow],
    shown: Callable[[MatrixCell], Inline],
    t: ReportLanguage,
    *,
    heat: Sequence[Sequence[float | None]] = (),
    keep: Callable[[MatrixColumn], bool] = lambda column: True,
) -> Table:
    """``keep``: which columns; the others have nothing in this table."""
    kept = [i for i, column in enumerate(found.columns) if keep(column)]
    lines = [(model_name(row, t), *(shown(cell) if (cell := row.cells[i]) else NONE for i in kept)) for row in rows]
    header = (t("Model"), *(t("on {set}", set=found.columns[i].label) for i in kept))
    of_columns = ("", *(found.columns[i].label if found.columns[i].owner is not None else "" for i in kept))
    coloured = [(None, *line) for line in heat]
    of_rows = ["" if row.base else row.label for row in rows]
    return Table(caption, header, lines, range(1, len(header)), of_columns=of_columns, of_rows=of_rows, heat=coloured)


def model_name(row: MatrixRow, t: ReportLanguage) -> Inline:
    """What a row's model is called."""
    if not row.base:
        return t("{level} model", level=row.label)
    return t("Base model {name}", name=row.label) if row.label else t("Base model")


def _shown(one: LossDifference | None, t: ReportLanguage) -> Inline:
    """Bold where it exceeds noise."""
    if one is None:
        return NONE
    text = t.signed(one.value, DIGITS) + (f" ({_limits(one, t)})" if one.interval else "")
    return strong(text) if one.exceeds_noise else text


def _limits(one: LossDifference, t: ReportLanguage) -> str:
    found = one.interval
    return f"{t.signed(found.low, DIGITS)} … {t.signed(found.high, DIGITS)}" if found else NONE


# In words.


def sentences(found: Matrix, t: ReportLanguage) -> list[Inline]:
    """How special each model is to its level, and what it lost elsewhere, as far as the intervals tell."""
    return [*_specialisation(found, t), *_forgetting(found, t)]


def _specialisation(found: Matrix, t: ReportLanguage) -> Iterator[Inline]:
    """Of each level's data: the model of another level that comes nearest to the level's own."""
    for place, column in enumerate(found.columns):
        others = [
            (difference, row.label)
            for row in found.tuned
            if (cell := row.cells[place]) and (difference := cell.response.to_own)
        ]
        if others:
            difference, other = min(others, key=lambda one: one[0].value)
            yield _nearest(column.label, other, difference, t)


def _nearest(level: str, other: str, difference: LossDifference, t: ReportLanguage) -> Inline:
    values = {"level": level, "other": other, "limits": _limits(difference, t)}
    values["difference"] = t.figure(abs(difference.value), DIGITS)
    if difference.interval is None:
        return t(
            "On {level}'s examples the nearest of the other models is that of {other}; there are too few examples to tell "
            "by how much.",
            **values,
        )
    if not difference.exceeds_noise:
        return t(
            "On {level}'s examples the {other} model does as well as the {level} model, as far as these examples tell: the "
            "difference in response loss has the 95% interval {limits}.",
            **values,
        )
    if difference.value > 0:
        return t(
            "On {level}'s examples the {level} model is the best: the next, that of {other}, has a response loss "
            "{difference} nats higher (95% interval {limits}).",
            **values,
        )
    return t(
        "On {level}'s examples the {other} model is better than the {level} model: its response loss is {difference} nats "
        "lower (95% interval of the difference {limits}).",
        **values,
    )


def _forgetting(found: Matrix, t: ReportLanguage) -> Iterator[Inline]:
    """Which models are worse than before fine-tuning, and where."""
    known, lost_any = False, False
    for row in found.tuned:
        away = [
            (column.label, cell.response.to_base)
            for column, cell in zip(found.columns, row.cells, strict=True)
            if cell and not cell.own and cell.response.to_base
        ]
        known |= bool(away)
        lost = [(label, one) for label, one in away if one.exceeds_noise and one.value > 0]
        if lost:
            lost_any = True
            where = joined([_where(label, one, t) for label, one in lost], "; ")
            yield t(
                "The {level} model lost something: its response loss is higher than before fine-tuning {where}.",
                level=row.label,
                where=where,
            )
    if known and not lost_any:
        yield t(
            "No model is worse on the examples of another level than it was before fine-tuning, as far as these examples "
            "tell."
        )


def _where(label: str, one: LossDifference, t: ReportLanguage) -> Markdown:
    return t(
        "on {set} by {difference} ({limits})", set=label, difference=t.figure(one.value, DIGITS), limits=_limits(one, t)
    )


def uneven(found: Matrix) -> bool:
    """Whether the models of a set were evaluated on different numbers of its examples."""
    counts = (
        {cell.examples for row in found.rows if (cell := row.cells[place])} for place in range(len(found.columns))
    )
    return any(len(one) > 1 for one in counts)
