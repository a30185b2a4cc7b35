"""Which settings a search tries next, and which of its trials go on: pure functions of what is recorded, Optuna's inside.

Nothing here reads a store or starts a job, and no state is kept: the same records give the same answers on any machine.
"""
