"""Layers of settings: what no job or site file of today shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from cefr_batch.config.layers import Layers
from cefr_batch.config.schema import StrictModel
from cefr_batch.errors import SpecError


class _Site(StrictModel):
    job_mode: str = "separate"
    keep_days: int = 1


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
