"""``exports/<kind>/export.json``: a trained model in another program's form, and how it compares with the merged model.

Written last of an export's files, beside the run's manifest and not listed in it: exports may be made at any time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from cefr_batch.records.document import Count, Part, Sha256, StoredRecord
from cefr_batch.records.stages import StoredObject
from cefr_batch.records.timestamps import Timestamp

GgufType = Literal["f16", "q8_0", "q4_k_m"]  # the most exact one first
_GGUF = ".gguf"


def export_kind(type_: GgufType) -> str:
    """The name of an export, and of its folder: ``gguf-q8_0``."""
    return f"gguf-{type_}"


def export_form(type_: GgufType) -> str:
    """What ``cefr-batch export --to`` calls it: ``gguf`` for 16-bit floats, ``gguf-q8_0``."""
    return "gguf" if type_ == "f16" else export_kind(type_)


# Two tokens whose logits are closer than this are a tie: which one is written is up to how sums are rounded, to 16 bits in
# llama.cpp and to 32 here (SmolLM2, 20 texts of up to 300 tokens: 3 part, where ours had gaps of 0.0008 to 0.0031).
TIE = 0.05
# By how much an export may change the loss, in nats a token. None: what rounding to about 4 bits costs is told.
LOSS_BOUNDS: dict[GgufType, float | None] = {"f16": 0.005, "q8_0": 0.01, "q4_k_m": None}


class TextDifference(Part):
    """Where two greedy texts begin to differ: at which token of the answer, and what each program wrote there.
    ``our_gap``: by how much our token's logit is above theirs in our computation; ``their_gap``: by how much theirs is
    above ours in the other program's. Both are 0 or more, apart from rounding when the text is read again.
    """

    example: Count
    token: Count
    ours: str
    theirs: str
    our_gap: float
    their_gap: float

    @property
    def is_tie(self) -> bool:
        """Whether both tokens were as good as equally probable."""
        return abs(self.our_gap) <= TIE and abs(self.their_gap) <= TIE


class ExportCheck(Part):
    """A comparison of an exported model, run by another program, with the merged model, run by transformers.
    ``equal_prompts``: for how many examples the file's own chat template and tokenizer give the tokens of training;
    ``first_other_prompt``: what they give for the first prompt that differs. ``ends``: whether the program ends an
    answer at the token that ends a trained response. Losses are in nats per token over the same examples: over all
    tokens, and over those of the responses alone.
    """

    program: str
    examples: Count
    equal_prompts: Count
    first_other_prompt: str | None = None
    ends: bool
    equal_texts: Count
    differences: list[TextDifference]
    merged_loss: float
    exported_loss: float
    merged_response_loss: float
    exported_response_loss: float
    seconds: float

    @property
    def loss_change(self) -> float:
        """Over all tokens; positive where the export is worse."""
        return self.exported_loss - self.merged_loss

    @property
    def ties(self) -> int:
        """How many of the texts differ by a tie alone."""
        return sum(one.is_tie for one in self.differences)

    def problems(self, kind: GgufType) -> Iterator[str]:
        """What says that the file is not the model that was trained; nothing if it is, within its type's precision."""
        if self.equal_prompts < self.examples:
            yield (
                f"its chat template does not make the prompt that was trained, for {self.examples - self.equal_prompts} of "
                f"{self.examples} examples; the first: {self.first_other_prompt!r}"
            )
        if not self.ends:
            yield "it does not stop at the token that closes a trained response"
        if kind == "f16" and self.equal_texts + self.ties < self.examples:
            others = self.examples - self.equal_texts - self.ties
            yield f"{others} of {self.examples} greedy texts differ from the merged model's, by more than a tie"
        bound = LOSS_BOUNDS[kind]
        if bound is not None and not abs(self.loss_change) <= bound:
            yield (
                f"its loss is {self.exported_loss:.4f}, the merged model's {self.merged_loss:.4f} (at most {bound:g} apart "
                f"for {kind})"
            )


class ExportRecord(StoredRecord):
    """An export's files, by their key relative to the run, and what it was made from. ``check``: None if the export was
    not verified; ``not_verified`` then says why. ``merged_sha256``: of the merged model's weights.
    """

    run: str
    kind: GgufType
    objects: list[StoredObject]
    merged_sha256: Sha256
    converter: str
    check: ExportCheck | None = None
    not_verified: str = ""
    code_version: str
    made_at: Timestamp

    @model_validator(mode="after")
    def _has_a_file(self) -> Self:
        if not any(one.key.endswith(_GGUF) for one in self.objects):
            raise ValueError(f"objects: no {_GGUF} file is listed")
        return self

    @property
    def name(self) -> str:
        """``gguf-f16``"""
        return export_kind(self.kind)

    @property
    def file(self) -> str:
        """The name of the GGUF file in the export's folder."""
        return next(one.key.rpartition("/")[2] for one in self.objects if one.key.endswith(_GGUF))


class ExportResult(Part):
    """The result of a job's stage ``export``: what was made, and why the rest was not, by kind."""

    made: list[GgufType]
    failed: dict[str, str] = Field(default_factory=dict)


class CheckRequest(StoredRecord):
    """The request to the process that runs an exported file. ``dataset``: a folder; the first ``examples`` of its
    evaluation set are used.
    """

    gguf: str
    merged: str
    dataset: str
    prompt: Literal["alpaca", "chat"]
    max_length: Count
    examples: Count
    max_new_tokens: Count


class CheckAnswer(StoredRecord):
    """The answer to a ``CheckRequest``. ``check``: None if llama.cpp cannot be used here (``not_verified`` says why) or
    refuses the file (``refused``).
    """

    check: ExportCheck | None = None
    not_verified: str = ""
    refused: str = ""
