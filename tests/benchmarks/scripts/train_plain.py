"""What a user would write with TRL and PEFT. Arguments: model folder, tokenized examples, settings (JSON files)."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer

model_path = sys.argv[1]
examples, settings = (json.loads(Path(name).read_text()) for name in sys.argv[2:4])


class Clock(TrainerCallback):  # type: ignore[misc]  # transformers is not typed here
    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.started = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        seconds.append(time.monotonic() - self.started)


seconds: list[float] = []
set_seed(42)
model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.bfloat16)
model = get_peft_model(model, LoraConfig(**settings["lora"], task_type="CAUSAL_LM"))
trainer = SFTTrainer(
    model=model,
    args=SFTConfig(output_dir=sys.argv[4], use_cpu=True, bf16=True, **settings["trainer"]),
    train_dataset=Dataset.from_dict({"input_ids": examples}),
    processing_class=AutoTokenizer.from_pretrained(model_path),
    callbacks=[Clock()],
)
trainer.train()
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
print(json.dumps({"seconds": seconds, "losses": losses}))
