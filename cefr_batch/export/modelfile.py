"""The Modelfile by which Ollama makes a model of a GGUF file: https://docs.ollama.com/modelfile

Its templates are Go's, and it takes over no template of a file that it does not know, so the trained prompt is written out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from cefr_batch.data.chat_template import ChatTemplate, Message, user
from cefr_batch.data.special_tokens import SpecialTokens
from cefr_batch.errors import ChatTemplateError, ExportError
from cefr_batch.export.gguf import GgufMetadata
from cefr_batch.files import read_json

MODELFILE = "Modelfile"
# Stand for what users write while the template is looked at: no template writes them itself.
_SYSTEM, _PROMPT = "\x02system\x03", "\x02prompt\x03"


def modelfile(run: str, gguf: Path, merged: Path, metadata: GgufMetadata) -> str:
    """The text for a GGUF file, which lies beside it, of the model in the folder ``merged``.

    Texts are the most probable ones, as by the merged model's own settings: Ollama would draw at random and punish
    repetition.
    """
    lines = [
        f"# {run}: ollama create {run} -f {MODELFILE}",
        f"FROM ./{gguf.name}",
        f'TEMPLATE """{_template(merged, metadata)}"""',
        *(f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in _stops(merged)),
        "PARAMETER temperature 0",
        "PARAMETER repeat_penalty 1",
    ]
    return "\n".join(lines) + "\n"


def _template(merged: Path, metadata: GgufMetadata) -> str:
    """What Ollama makes of one turn: the prompt up to ``.Response``, which the model writes, and what closes it."""
    template = ChatTemplate.read(merged, SpecialTokens.read(merged))
    begin = metadata.begin if metadata.adds_begin else ""  # Ollama adds it as the file says
    plain = _go(template.render([user(_PROMPT)], ask=True).removeprefix(begin))
    system: Sequence[Message] = [{"role": "system", "content": _SYSTEM}, user(_PROMPT)]
    try:
        instructed = _go(template.render(system, ask=True).removeprefix(begin))
        asked = f"{{{{ if .System }}}}{instructed}{{{{ else }}}}{plain}{{{{ end }}}}"
    except ChatTemplateError:  # it takes no system message
        asked = plain
    shape = template.answer
    return f"{asked}{{{{ .Response }}}}{_literal(shape.after + shape.end)}"


def _go(rendered: str) -> str:
    """A rendered prompt as a template of Go's."""
    if rendered.count(_PROMPT) != 1:
        raise ExportError("the model's chat template cannot be written as Ollama's: it repeats or changes a message")
    parts = [rendered]
    for mark, name in ((_SYSTEM, "{{ .System }}"), (_PROMPT, "{{ .Prompt }}")):
        parts = [piece for part in parts for piece in _split(part, mark, name)]
    return "".join(part if part in ("{{ .System }}", "{{ .Prompt }}") else _literal(part) for part in parts)


def _split(text: str, mark: str, name: str) -> list[str]:
    before, found, after = text.partition(mark)
    return [before, name, after] if found else [text]


def _literal(text: str) -> str:
    """Text as it is, or as a constant of Go's where it would mean something in a template or a Modelfile."""
    return f"{{{{ {json.dumps(text)} }}}}" if "{{" in text or '"""' in text else text


def _stops(merged: Path) -> list[str]:
    """The tokens at which the model has finished, as text."""
    ids = read_json(merged / "generation_config.json")["eos_token_id"]
    tokens = {token["id"]: token["content"] for token in read_json(merged / "tokenizer.json")["added_tokens"]}
    return [tokens[one] for one in (ids if isinstance(ids, list) else [ids]) if one in tokens]
