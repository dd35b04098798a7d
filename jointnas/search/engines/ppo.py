"""AutoAugment's controller (Cubuk et al. 2019; Zoph et al. 2018): a recurrent network that proposes one value a knob, trained by PPO.

An LSTM of 100 units reads the value that it chose for the knob before. The reward is the accuracy less its moving average (0.95); proximal
policy optimisation (Schulman et al. 2017) with an entropy bonus of 1e-5 and a learning rate of 3.5e-4, as in the paper.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from jointnas.search.engines.problem import Problem
from jointnas.space.knobs import Codes, Knob

UNITS = 100
RATE = 3.5e-4
ENTROPY = 1e-5
BASELINE = 0.95  # of the moving average of rewards
CLIP, PASSES = 0.2, 10  # of PPO: how far a ratio of probabilities counts, and updates for each batch
LEVELS = 11  # values of a continuous knob
GRID = 4096  # points of the unit interval in which a knob's values are found
PATIENCE = 50  # batches without a new candidate


def control(problem: Problem) -> None:
    """Evaluate the start, then let the controller propose batches of candidates until the budget is spent, or it only repeats itself."""
    rng = torch.Generator().manual_seed(problem.seed)
    values = [levels(knob) for knob in problem.space.knobs]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(problem.seed)
        controller = Controller([len(own) for own in values])
    optimizer = torch.optim.Adam(controller.parameters(), lr=RATE)
    problem.evaluate(problem.start)
    baseline: float | None = None
    idle = 0
    while not problem.exhausted and idle < PATIENCE:
        before = problem.spent
        with torch.no_grad():
            actions, log_probabilities, _ = controller(problem.batch, rng)
        codes = np.stack([own[chosen] for own, chosen in zip(values, actions.numpy().T, strict=True)], axis=1)
        _, evaluation = problem.evaluate(problem.space.settled(codes))
        idle = 0 if problem.spent > before else idle + 1
        kept = np.flatnonzero(~evaluation.failed & (evaluation.violations.sum(axis=1) == 0))
        if not len(kept):
            continue
        rewards = -evaluation.objectives[kept, 0]
        baseline = (
            float(rewards.mean()) if baseline is None else BASELINE * baseline + (1 - BASELINE) * float(rewards.mean())
        )
        advantages = torch.from_numpy(rewards - baseline).float()
        for _ in range(PASSES):
            _, now, entropy = controller(len(kept), rng, actions[kept])
            ratio = (now - log_probabilities[kept]).exp()
            gain = torch.minimum(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages)
            optimizer.zero_grad(set_to_none=True)
            (-gain.mean() - ENTROPY * entropy.mean()).backward()
            optimizer.step()


def levels(knob: Knob) -> Codes:
    """Return the codes that the controller may choose of a knob: all values, or `LEVELS` of a continuous one."""
    codes = np.unique(knob.from_unit((np.arange(GRID) + 0.5) / GRID))
    if len(codes) <= GRID // 8:
        return codes
    return np.asarray(knob.from_unit(np.linspace(0, 1 - 1 / GRID, LEVELS)))


class Controller(nn.Module):
    """The recurrent network. sizes: how many values each knob has."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(UNITS, UNITS)
        self.first = nn.Parameter(torch.zeros(UNITS))
        self.embeddings = nn.ModuleList(nn.Embedding(size, UNITS) for size in sizes)
        heads = [nn.Linear(UNITS, size) for size in sizes]
        for head in heads:
            nn.init.zeros_(head.bias)
            nn.init.uniform_(head.weight, -0.1, 0.1)
        self.heads = nn.ModuleList(heads)

    def forward(self, n: int, rng: torch.Generator, actions: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return n rows of actions, (n, knobs) indices, drawn or given, with their (n,) log-probabilities and entropies."""
        state = (torch.zeros(n, UNITS), torch.zeros(n, UNITS))
        read = self.first.expand(n, UNITS)
        chosen, log_probability, entropy = [], torch.zeros(n), torch.zeros(n)
        for i, (head, embedding) in enumerate(zip(self.heads, self.embeddings, strict=True)):
            state = self.cell(read, state)
            logs = head(state[0]).log_softmax(dim=1)
            own = torch.multinomial(logs.exp(), 1, generator=rng)[:, 0] if actions is None else actions[:, i]
            chosen.append(own)
            log_probability = log_probability + logs.gather(1, own[:, None])[:, 0]
            entropy = entropy - (logs.exp() * logs).sum(dim=1)
            read = embedding(own)
        return torch.stack(chosen, dim=1), log_probability, entropy
