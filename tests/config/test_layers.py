"""Layers of settings: what no job or site file of today shows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from cefr_batch.config.layers import Layers
from cefr_batch.config.schema import StrictModel
from cefr_batch.errors import SpecError


class _Site(StrictModel):
    job_mode: str = "separate"
    keep_days: int = 1


class _Rule(StrictModel):
    key: str = ""


class _Kinds(StrictModel):
    """A setting of each type."""

    text: Annotated[str, Field(min_length=1)] = "x"
    whole: int = 1
    number: float = 1.0
    switch: bool = True
    words: Annotated[list[str], Field(min_length=1)] = Field(default_factory=list)
    rules: list[_Rule] = Field(default_factory=list)
    part: _Rule = _Rule()
    variables: dict[str, str] = Field(default_factory=dict)
    maybe: list[str] | None = None


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("text", 1, "must be text in quotes (got 1; without quotes, YAML reads 1:30:00 as a number, and yes as true)"),
        ("text", [], "must be text (got [])"),
        ("text", "", "must not be empty (got '')"),
        ("whole", 1.5, "must be a whole number (got 1.5)"),
        ("whole", "x", "must be a whole number (got 'x')"),
        ("number", "x", "must be a number (got 'x')"),
        ("switch", "maybe", "must be true or false (got 'maybe')"),
        ("words", {}, "must be a list (got {})"),
        ("words", "x", "must be a list (got 'x')"),
        ("words", [], "must not be empty (got [])"),
        ("maybe", {}, "must be a list (got {})"),
        ("rules", ["x"], "must be a mapping (key: value) (got 'x')"),
        ("part", "x", "must be a mapping (key: value) (got 'x')"),
        ("variables", [], "must be a mapping (key: value) (got [])"),
    ],
)
def test_a_value_of_another_type_is_told_in_words_and_not_in_those_of_a_library(
    key: str, value: object, said: str
) -> None:
    layers = Layers(_Kinds)
    layers.add_settings({key: value}, "site.yaml")
    with pytest.raises(SpecError) as told:
        layers.resolve()
    (problem,) = told.value.problems
    assert str(problem).endswith(said)


def test_a_renamed_key_is_still_read_with_a_deprecation_warning_and_both_names_together_are_a_problem(
    tmp_path: Path,
) -> None:
    def read(text: str) -> Layers[_Site]:
        (tmp_path / "site.yaml").write_text(text)
        layers = Layers(_Site, renamed={"several_levels": "job_mode"})
        layers.add_file(tmp_path / "site.yaml")
        return layers

    old = read("several_levels: indexed\n")
    assert old.resolve().job_mode == "indexed"
    assert old.warnings == [f"{tmp_path / 'site.yaml'}: several_levels is deprecated, use job_mode instead"]
    assert read("job_mode: indexed\n").warnings == []
    with pytest.raises(
        SpecError, match="several_levels was renamed to job_mode, and both are set; remove several_levels"
    ):
        read("several_levels: indexed\njob_mode: separate\n").resolve()
    with pytest.raises(SpecError, match="job_mode: must be text"):
        read("several_levels: [1]\n").resolve()
