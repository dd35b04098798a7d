"""The accuracy predictor: FBNetV3's encoder with proxy heads, then an accuracy head, as an ensemble in one computation.

An encoder reads the architecture. Its proxy head is trained first, on thousands of candidates that cost nothing, to give
their statistics (MACs, parameters …); the accuracy head then reads [embedding ‖ statistics ‖ recipe] and is fitted to real
trainings, first with the encoder at rest, then together at a lower rate (FBNetV3, §3.2; Dai et al., CVPR 2021).
Each input of the accuracy head passes a learned gate under an L1 penalty, so that the head learns which inputs matter.

Every layer carries a leading dimension of members, so an ensemble of m networks is one batched matrix product, and so are
the networks that are fitted to the folds of a cross-validation, which differ by the weights of their examples alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from scipy.stats import kendalltau
from torch import Tensor, nn

from jointnas.errors import JointNASError, PredictorError
from jointnas.knobs import Codes
from jointnas.space import Candidate, CostFunction, Space
from jointnas.training.observation import Observation

FORMAT = 1
MEMBERS = 10
FOLDS = 5
MEMBERS_PER_FOLD = 4
ENCODER = (128, 64, 24)
HEAD = (128, 64)
FREE_SAMPLES = 4096
PRETRAINING_EPOCHS = 20
PRETRAINING_BATCH = 128
FROZEN_STEPS, FROZEN_RATE = 150, 1e-2
JOINT_STEPS, JOINT_RATE = 150, 1.5e-3
WEIGHT_DECAY = 1.0
GATE_PENALTY = 1e-2
FIT_BATCH = 32
SMALLEST_FIT = 2
SCORING_CHUNK = 4096
Array = NDArray[np.float64]


class _Linear(nn.Module):
    """One linear layer for each member: (m, n, in) to (m, n, out)."""

    def __init__(self, members: int, inputs: int, outputs: int, generator: torch.Generator) -> None:
        super().__init__()
        bound = (6 / max(1, inputs)) ** 0.5  # He et al. 2015, uniform
        draw = torch.rand(members, inputs, outputs, generator=generator)
        self.weight = nn.Parameter((2 * draw - 1) * bound)
        self.bias = nn.Parameter(torch.zeros(members, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


def _mlp(members: int, sizes: Sequence[int], generator: torch.Generator) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [_Linear(members, inputs, outputs, generator), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


class _Ensemble(nn.Module):
    """Encoder, proxy head and accuracy head of m members."""

    def __init__(
        self, members: int, d_architecture: int, d_recipe: int, proxies: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.members = members
        self.encoder = _mlp(members, (d_architecture, *ENCODER), generator)
        self.proxy_head = _mlp(members, (ENCODER[-1], proxies), generator)
        inputs = ENCODER[-1] + proxies + d_recipe
        self.gates = nn.Parameter(torch.ones(members, 1, inputs))
        self.accuracy_head = _mlp(members, (inputs, *HEAD, 1), generator)

    def proxies(self, architecture: Tensor) -> Tensor:
        """Return (m, n, proxies) standardised statistics from (m, n, d_architecture)."""
        out: Tensor = self.proxy_head(F.silu(self.encoder(architecture)))
        return out

    def forward(self, architecture: Tensor, statistics: Tensor, recipe: Tensor) -> Tensor:
        """Return (m, n) standardised accuracies from features with the same leading (m, n)."""
        embedding = F.silu(self.encoder(architecture))
        out: Tensor = self.accuracy_head(self.gates * torch.cat([embedding, statistics, recipe], dim=2))
        return out.squeeze(2)


class Predictor:
    """Predicts the accuracy of candidates of one bound space.

    cost: for an abstract space, a function from a candidate to its costs. Raises `SpaceError` for an unbound space.
    """

    def __init__(
        self, space: Space, seed: int = 0, *, cost: CostFunction | None = None, members: int = MEMBERS
    ) -> None:
        self.space = space.with_cost(cost)
        self.seed = seed
        self.members = members
        self.candidates: list[Candidate] = []
        self.accuracies: Array = np.zeros(0)
        self.context: dict[str, Any] = {}
        self.rank_correlation: float | None = (
            None  # Kendall's τ, cross-validated; None before there are enough examples
        )
        self.proxy_names = self.space.metrics
        free = next(self.space.stream(seed, chunk=FREE_SAMPLES))
        statistics = self._raw_statistics(free)
        self._mean, self._std = statistics.mean(axis=0), np.maximum(statistics.std(axis=0), 1e-6)
        self._centre, self._spread = 0.0, 1.0
        self._pretrained: _Ensemble | None = None
        self._fitted: _Ensemble | None = None

    # ---------------------------------------------------------------------------------------------------- features

    def _raw_statistics(self, codes: Codes) -> Array:
        costs = self.space.costs(codes)
        columns = [np.sign(costs[name]) * np.log1p(np.abs(costs[name])) for name in self.proxy_names]
        return np.stack(columns, axis=1) if columns else np.zeros((len(codes), 0))

    def _features(self, codes: Codes) -> tuple[Tensor, Tensor, Tensor]:
        """Return float32 (n, d_architecture), (n, proxies) and (n, d_recipe), numbers spread to about [−1, 1]."""
        architecture, recipe = self.space.encode_codes(codes)
        statistics = (self._raw_statistics(codes) - self._mean) / self._std
        spread = [torch.from_numpy(x).float() for x in (2 * architecture - 1, statistics, 2 * recipe - 1)]
        return spread[0], spread[1], spread[2]

    # ----------------------------------------------------------------------------------------------------- training

    def pretrain(self) -> float:
        """Train every member's encoder and proxy head on free samples; return the loss on samples it has not seen.

        The loss is the mean Huber loss of standardised log statistics. Called by `fit` where it has not been before.
        """
        generator = torch.Generator().manual_seed(self.seed)
        samples = self._features(next(self.space.stream(self.seed + 1, chunk=FREE_SAMPLES)))
        architecture, statistics, recipe = samples
        members = max(self.members, FOLDS * MEMBERS_PER_FOLD)
        ensemble = _Ensemble(members, architecture.shape[1], recipe.shape[1], statistics.shape[1], generator)
        held_out, n = len(architecture) // 8, len(architecture)
        if self.proxy_names:
            parameters = [*ensemble.encoder.parameters(), *ensemble.proxy_head.parameters()]
            optimizer = torch.optim.Adam(parameters, lr=2e-3)
            steps = PRETRAINING_EPOCHS * ((n - held_out) // PRETRAINING_BATCH)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
            for _ in range(steps):
                rows = torch.randint(held_out, n, (PRETRAINING_BATCH,), generator=generator)
                batch = architecture[rows].expand(members, -1, -1)
                loss = F.huber_loss(ensemble.proxies(batch), statistics[rows].expand(members, -1, -1))
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
        self._pretrained = ensemble
        if not self.proxy_names:
            return 0.0
        with torch.no_grad():
            seen = ensemble.proxies(architecture[:held_out].expand(members, -1, -1))
            return float(F.huber_loss(seen, statistics[:held_out].expand(members, -1, -1)))

    def fit(self, candidates: Sequence[Mapping[str, Any]], results: Sequence[float | Observation]) -> Predictor:
        """Fit the accuracy head to n candidates and their accuracies or observations; failed ones are left out.

        Replaces what was fitted before. Sets `rank_correlation`. Raises `PredictorError` for fewer than two accuracies.
        """
        if len(candidates) != len(results):
            raise PredictorError(
                f"every candidate has one accuracy, got {len(candidates)} and {len(results)}: give as many of each"
            )
        values = [r.accuracy if isinstance(r, Observation) else float(r) for r in results]
        kept = [(c, v) for c, v in zip(candidates, values, strict=True) if v is not None]
        if not all(np.isfinite(v) for _, v in kept):
            raise PredictorError("an accuracy is a finite number, got one that is not: tell it as a failure")
        if len(kept) < SMALLEST_FIT:
            raise PredictorError(
                f"a predictor is fitted to {SMALLEST_FIT} accuracies or more, got {len(kept)}: train more"
            )
        if self._pretrained is None:
            self.pretrain()
        codes = self.space.to_codes([c for c, _ in kept])
        self.candidates = self.space.to_candidates(codes)
        self.accuracies = np.array([v for _, v in kept])
        self._centre = float(self.accuracies.mean())
        self._spread = max(float(self.accuracies.std()), 1e-6)
        targets = torch.tensor((self.accuracies - self._centre) / self._spread, dtype=torch.float32)
        features = self._features(codes)
        self._fitted = self._fit_heads(features, targets, torch.ones(self.members, len(targets)))
        self.rank_correlation = self._cross_validate(features, targets)
        return self

    def _fit_heads(self, features: tuple[Tensor, Tensor, Tensor], targets: Tensor, weights: Tensor) -> _Ensemble:
        """Return an ensemble fitted to (n,) targets, each member weighing the examples by its row of (m, n) weights."""
        assert self._pretrained is not None
        generator = torch.Generator().manual_seed(self.seed + 2)
        members, n = weights.shape
        ensemble = _Ensemble(members, features[0].shape[1], features[2].shape[1], features[1].shape[1], generator)
        for part in ("encoder", "proxy_head"):
            pretrained = getattr(self._pretrained, part).state_dict()
            getattr(ensemble, part).load_state_dict({k: v[:members] for k, v in pretrained.items()})
        wide = [f.expand(members, -1, -1) for f in features]
        head = list(ensemble.accuracy_head.parameters())
        for steps, rate, weights_trained in (
            (FROZEN_STEPS, FROZEN_RATE, head),
            (JOINT_STEPS, JOINT_RATE, [*head, *ensemble.encoder.parameters()]),
        ):
            groups = [
                {"params": weights_trained, "weight_decay": WEIGHT_DECAY},
                {"params": [ensemble.gates], "weight_decay": 0.0},
            ]
            optimizer = torch.optim.AdamW(groups, lr=rate)
            for _ in range(steps):
                rows = torch.randperm(n, generator=generator)[:FIT_BATCH]
                losses = F.huber_loss(
                    ensemble(*[w[:, rows] for w in wide]), targets[rows].expand(members, -1), reduction="none"
                )
                loss = (losses * weights[:, rows]).sum() / len(rows) + GATE_PENALTY * ensemble.gates.abs().sum()
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        return ensemble

    def _cross_validate(self, features: tuple[Tensor, Tensor, Tensor], targets: Tensor) -> float | None:
        """Return Kendall's τ between the accuracies and what members that never saw them predict."""
        n = len(targets)
        folds = min(FOLDS, n)
        if n < 4:
            return None
        fold = np.random.default_rng(self.seed).permutation(n) % folds
        unseen = torch.tensor(np.repeat(np.arange(folds)[:, None] == fold[None, :], MEMBERS_PER_FOLD, axis=0))
        ensemble = self._fit_heads(features, targets, (~unseen).float())
        with torch.no_grad():
            predicted = ensemble(*[f.expand(ensemble.members, -1, -1) for f in features])
        held_out = (predicted * unseen).sum(0) / unseen.sum(0)
        tau = float(kendalltau(held_out.numpy(), targets.numpy()).statistic)
        return tau if np.isfinite(tau) else 0.0

    # --------------------------------------------------------------------------------------------------- predicting

    @torch.inference_mode()
    def predict_codes(self, codes: Codes) -> Array:
        """Return (m, n) accuracies, one row a member, of (n, knobs) codes. Raises `PredictorError` before a fit."""
        if self._fitted is None:
            raise PredictorError("a predictor predicts once it is fitted, got none: call fit or train a first batch")
        parts = []
        for start in range(0, len(codes), SCORING_CHUNK):
            features = self._features(codes[start : start + SCORING_CHUNK])
            parts.append(self._fitted(*[f.expand(self.members, -1, -1) for f in features]).double().numpy())
        scores = np.concatenate(parts, axis=1) if parts else np.zeros((self.members, 0))
        return self._centre + self._spread * scores

    def predict_members(self, candidates: Sequence[Mapping[str, Any]]) -> Array:
        """Return (m, n) accuracies, one row for each member of the ensemble."""
        return self.predict_codes(self.space.to_codes(candidates))

    def predict(self, candidates: Sequence[Mapping[str, Any]]) -> tuple[Array, Array]:
        """Return the mean (n,) and the standard deviation (n,) of the members' accuracies."""
        scores = self.predict_members(candidates)
        return scores.mean(axis=0), scores.std(axis=0)

    # -------------------------------------------------------------------------------------------------- on the disk

    def save(self, folder: Path | str) -> None:
        """Write `predictor.safetensors` and `predictor.json` (space, examples, normalisation) into a folder."""
        if self._fitted is None or self._pretrained is None:
            raise PredictorError("a predictor is saved once it is fitted, got none: call fit first")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"fitted.{k}": v.contiguous() for k, v in self._fitted.state_dict().items()}
        tensors |= {
            f"pretrained.{k}": v.contiguous()
            for k, v in self._pretrained.state_dict().items()
            if k.startswith(("encoder", "proxy_head"))
        }
        about = {
            "format": FORMAT,
            "space": self.space.to_toml(),
            "input_shape": self.space.input_shape,
            "classes": self.space.classes,
            "seed": self.seed,
            "members": self.members,
            "proxies": {"names": self.proxy_names, "mean": self._mean.tolist(), "std": self._std.tolist()},
            "accuracy": {"mean": self._centre, "std": self._spread},
            "rank_correlation": self.rank_correlation,
            "context": self.context,
            "trials": [
                {"candidate": c, "accuracy": float(a)} for c, a in zip(self.candidates, self.accuracies, strict=True)
            ],
        }
        save_file(tensors, folder / "predictor.safetensors")
        (folder / "predictor.json").write_text(json.dumps(about, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path | str, cost: CostFunction | None = None) -> Predictor:
        """Return the predictor that `save` wrote. Nothing in the files is executed. Raises `PredictorError`."""
        folder = Path(folder)
        try:
            about = json.loads((folder / "predictor.json").read_text(encoding="utf-8"))
            if about["format"] != FORMAT:
                raise PredictorError(
                    f"a predictor has format {FORMAT}, got {about['format']!r} in {str(folder)!r}: "
                    "install the version that wrote it"
                )
            space = Space.from_toml(about["space"], about["input_shape"], about["classes"])
            predictor = cls(space, int(about["seed"]), cost=cost, members=int(about["members"]))
            predictor._restore(about, load_file(folder / "predictor.safetensors"))
        except FileNotFoundError as error:
            raise PredictorError(
                f"a predictor is a folder with predictor.json, got {str(folder)!r}: check the path"
            ) from error
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            raise PredictorError(
                f"the files of a predictor are whole, got {error} in {str(folder)!r}: save it again"
            ) from error
        except PredictorError:
            raise
        except JointNASError as error:
            raise PredictorError(
                f"a predictor fits its own space, got {error} in {str(folder)!r}: save it again"
            ) from error
        return predictor

    def _restore(self, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        if tuple(about["proxies"]["names"]) != self.proxy_names:
            raise PredictorError(
                f"a predictor reads the costs it was fitted with, {about['proxies']['names']}, got {list(self.proxy_names)}: "
                "give the same cost function"
            )
        self._mean, self._std = np.array(about["proxies"]["mean"]), np.array(about["proxies"]["std"])
        self._centre, self._spread = float(about["accuracy"]["mean"]), float(about["accuracy"]["std"])
        self.rank_correlation, self.context = about["rank_correlation"], about["context"]
        codes = self.space.to_codes([t["candidate"] for t in about["trials"]])
        self.candidates = self.space.to_candidates(codes)
        self.accuracies = np.array([float(t["accuracy"]) for t in about["trials"]])
        architecture, statistics, recipe = self._features(codes)
        sizes = (architecture.shape[1], recipe.shape[1], statistics.shape[1])
        self._fitted = _Ensemble(self.members, *sizes, torch.Generator())
        self._fitted.load_state_dict({k[7:]: v for k, v in tensors.items() if k.startswith("fitted.")})
        pretrained = {k[11:]: v for k, v in tensors.items() if k.startswith("pretrained.")}
        self._pretrained = _Ensemble(len(next(iter(pretrained.values()))), *sizes, torch.Generator())
        self._pretrained.load_state_dict(pretrained, strict=False)
