"""Model folders that are not what they should be."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path

import pytest

from cefr_batch.errors import ModelError
from cefr_batch.models.loading import load_for_evaluation, load_tokenizer, stored_dtype


class Yes(io.StringIO):
    """A terminal at which somebody answers every question with y."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def planted(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder whose files name Python code beside them, which leaves a file ``ran`` when it is run."""
    folder = tmp_path / "planted"
    shutil.copytree(tiny_model, folder)
    code = f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n"
    for name in ("configuration_evil.py", "modeling_evil.py", "tokenization_evil.py", "custom_generate/generate.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(code)
    maps = {
        "config.json": {"AutoConfig": "configuration_evil.Evil", "AutoModelForCausalLM": "modeling_evil.Evil"},
        "tokenizer_config.json": {"AutoTokenizer": ["tokenization_evil.Evil", None]},
    }
    for name, auto_map in maps.items():
        content = json.loads((folder / name).read_text())
        content |= {"auto_map": auto_map, "model_type": "evil", "tokenizer_class": "Evil", "architectures": ["Evil"]}
        (folder / name).write_text(json.dumps(content))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "stdin", Yes("y\n" * 20))
    return folder


@pytest.mark.parametrize("load", [load_tokenizer, stored_dtype, load_for_evaluation])
def test_python_code_in_a_model_folder_is_never_run(planted: Path, load: object, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="running Python code that comes with it, which cefr-batch never does"):
        load(planted)  # type: ignore[operator]
    assert not (tmp_path / "ran").exists()
