"""What a user would write with Unsloth. Arguments: model folder, tokenized examples, settings (JSON files)."""

from unsloth import FastLanguageModel  # before all others  # isort: skip

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

model_path = sys.argv[1]
examples, settings = (json.loads(Path(name).read_text()) for name in sys.argv[2:4])
lora = settings["lora"]


class Clock(TrainerCallback):  # type: ignore[misc]  # transformers is not typed here
    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.started = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        seconds.append(time.monotonic() - self.started)


seconds: list[float] = []
model, tokenizer = FastLanguageModel.from_pretrained(
    model_name=model_path, max_seq_length=512, dtype=torch.bfloat16, load_in_4bit=False, local_files_only=True
)
model = FastLanguageModel.get_peft_model(
    model, **lora, use_gradient_checkpointing=False, random_state=42, max_seq_length=512
)
trainer = SFTTrainer(
    model=model,
    args=SFTConfig(output_dir=sys.argv[4], use_cpu=True, bf16=True, **settings["trainer"]),
    train_dataset=Dataset.from_dict({"input_ids": examples}),
    processing_class=tokenizer,
    callbacks=[Clock()],
)
trainer.train()
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
print(json.dumps({"seconds": seconds, "losses": losses}))
