"""Training: the trainer and its callbacks, checkpoints, smaller batches after running out of memory, several GPUs, plots."""
