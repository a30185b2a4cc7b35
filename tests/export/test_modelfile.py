"""Must show: Ollama's template, filled in, is the prompt that was trained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.exports import merged_folder
from support.prompts import CHATML

from cefr_batch.data import Example, prompt_format
from cefr_batch.data.chat_template import ChatTemplate, user
from cefr_batch.data.special_tokens import SpecialTokens
from cefr_batch.export.gguf import GgufMetadata
from cefr_batch.export.modelfile import modelfile

BEGINS = "{{ bos_token }}" + CHATML
GREETS = CHATML.replace("{% for", '{{ \'<|im_start|>system\nYou help. {{ """ }}<|im_end|>\n\' }}{% for', 1)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}" + CHATML


def filled_in(text: str, prompt: str, system: str = "") -> str:
    """What Ollama sends to the model: the template of a Modelfile up to ``.Response``, as Go's text/template fills it in, in
    the few forms that we write."""
    found = re.search(r'^TEMPLATE """(.*)"""\nPARAMETER', text, re.DOTALL | re.MULTILINE)
    assert found
    template = found[1].partition("{{ .Response }}")[0]
    if choice := re.fullmatch(r"\{\{ if \.System \}\}(.*)\{\{ else \}\}(.*)\{\{ end \}\}", template, re.DOTALL):
        template = choice[1] if system else choice[2]

    def value(match: re.Match[str]) -> str:
        constant = match[1].strip()
        known = {".Prompt": prompt, ".System": system}
        return known[constant] if constant in known else str(eval(constant))

    return re.sub(r"\{\{( (?:\.\w+|\"(?:[^\"\\]|\\.)*\") )\}\}", value, template)


@pytest.mark.parametrize(
    ("kind", "template", "adds_begin"),
    [
        ("alpaca", None, False),
        ("alpaca", CHATML, True),
        ("chat", CHATML, False),
        ("chat", BEGINS, True),
        ("chat", GREETS, False),
        ("chat", NO_SYSTEM, False),
    ],
    ids=[
        "alpaca",
        "alpaca after a begin",
        "chat",
        "chat that begins itself",
        "chat with a greeting",
        "no system message",
    ],
)
def test_the_template_makes_the_trained_prompt(
    kind: str, template: str | None, adds_begin: bool, tmp_path: Path
) -> None:
    published = merged_folder(tmp_path / "out", kind, template, "<bos>" if adds_begin else "")
    prompts = prompt_format("chat" if kind == "chat" else "alpaca", published)
    metadata = GgufMetadata("", frozenset(), adds_begin, "<bos>")
    text = modelfile("a-run", Path("a-run-f16.gguf"), published, metadata)
    for example in (Example("Say {{ .This }} & <that>", "", "Yes."), Example("Do it.", 'With """this""".', "Yes.")):
        trained = prompts.prompt(example).removeprefix("<bos>")  # Ollama puts it there, as the file says
        assert filled_in(text, prompts.request(example)) == trained
    end = "<|im_end|>" if kind == "chat" else "<eos>"
    assert f'{{{{ .Response }}}}{end}"""' in text
    assert f'PARAMETER stop "{end}"\n' in text


def test_a_system_message_has_the_place_that_the_chat_template_gives_it(tmp_path: Path) -> None:
    published = merged_folder(tmp_path / "out")
    text = modelfile("a-run", Path("a-run-f16.gguf"), published, GgufMetadata("", frozenset(), False, ""))
    template = ChatTemplate.read(published, SpecialTokens.read(published))
    said = template.render([{"role": "system", "content": "Be brief."}, user("Say it.")], ask=True)
    assert filled_in(text, "Say it.", "Be brief.") == said


def test_the_whole_file(tmp_path: Path) -> None:
    published = merged_folder(tmp_path / "out")
    text = modelfile("a-run", tmp_path / "a-run-f16.gguf", published, GgufMetadata("", frozenset(), False, ""))
    assert text == (
        "# a-run: ollama create a-run -f Modelfile\n"
        "FROM ./a-run-f16.gguf\n"
        'TEMPLATE """{{ if .System }}### Instruction:\n{{ .System }}\n\n{{ .Prompt }}\n\n### Response:\n{{ else }}'
        '### Instruction:\n{{ .Prompt }}\n\n### Response:\n{{ end }}{{ .Response }}<eos>"""\n'
        'PARAMETER stop "<eos>"\n'
        "PARAMETER temperature 0\n"
        "PARAMETER repeat_penalty 1\n"
    )
