"""The search space: knobs, sampling, exact costs, constraints."""
