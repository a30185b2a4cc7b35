"""The environment of a job's stages."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from cefr_batch.models.device import PROMISED_GPUS
from cefr_batch.records.layout import WorkDir

# What torchrun, accelerate, MPI and Slurm tell the processes of a group. A job starts its own group if it has one: in the
# shell of a notebook, of a torchrun or of an allocation, training would wait for processes that do not exist.
_OF_A_PROCESS_GROUP = re.compile(
    r"((LOCAL_|NODE_|GROUP_|ROLE_|CROSS_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)"
    r"|(TORCHELASTIC|PET|ACCELERATE|FSDP|DEEPSPEED|MEGATRON_LM|OMPI|PMI|PMI2|PMIX|MPI|MV2|I_MPI|HYDRA|PALS|FLUX"
    r"|SLURM|SLURMD|SRUN)_.*|MPILOCAL.*)"
)


def without_process_group(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables but those that tell a process of a group which one it is."""
    return {key: value for key, value in environment.items() if not _OF_A_PROCESS_GROUP.fullmatch(key)}


def stage_environment(work: WorkDir, gpus: int) -> dict[str, str]:
    """This process's environment, less what would steer the libraries of a stage, and with what a stage needs.

    ``gpus``: how many the site promised.
    """
    return {
        **without_process_group(os.environ),
        # Unsloth compiles into a folder of the run: two runs that share one break each other's imports.
        "UNSLOTH_COMPILE_LOCATION": str(work.tmp / "unsloth_compiled_cache"),
        # Batches differ in length, and each new length would else reserve more of the GPU (torch's notes on CUDA, "memory
        # management"). Unsloth sets the same.
        "PYTORCH_ALLOC_CONF": os.environ.get("PYTORCH_ALLOC_CONF", "expandable_segments:True"),
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",  # progress bars make no sense in a log
        "PYTHONUNBUFFERED": "1",
        PROMISED_GPUS: str(gpus),
    }
