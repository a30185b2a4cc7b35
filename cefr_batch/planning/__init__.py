"""Before anything runs: steps, tokens, GPU memory, time and cost. Pure arithmetic."""
