"""The accuracy predictor: FBNetV3's encoder with proxy heads and an accuracy head, as a calibrated deep ensemble.

The encoder and its proxy head are trained first, on thousands of candidates that cost nothing, to give their statistics
(MACs, parameters …); the accuracy head is then fitted to real trainings (Dai et al., CVPR 2021, §3.2; see `ensemble`).

Few trainings fit a network to noise, so what the ensemble says is shrunk by the slope of a regression of the accuracies on
its cross-validated predictions, and a Gaussian process on what then remains keeps it true to the candidates that were
trained: where the ensemble has learned nothing, it alone speaks. Both are ours.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from scipy.special import expit, logit
from scipy.stats import kendalltau
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Kernel, Matern, WhiteKernel
from threadpoolctl import ThreadpoolController
from torch import Tensor

from jointnas.ensemble import Ensemble, Features, fit_heads, pretrain
from jointnas.errors import JointNASError, PredictorError
from jointnas.knobs import Codes
from jointnas.space import Candidate, CostFunction, Space
from jointnas.training.observation import Observation

FORMAT = 1
DESCRIPTION, WEIGHTS = "predictor.json", "predictor.safetensors"
MEMBERS = 10
FOLDS = 5
MEMBERS_PER_FOLD = 4
FREE_SAMPLES = 4096
SMALLEST_FIT = 2
SMALLEST_VALIDATION = 4  # examples from which a cross-validation is made
SCORING_CHUNK = 4096
QUADRATURE_NODES = 9
EDGE = 0.005  # accuracies are taken to lie this far inside (0, 1)
Array = NDArray[np.float64]


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
        self._bounded = True  # accuracies in [0, 1] are fitted as log odds
        self._centre, self._spread = 0.0, 1.0
        self._slope = 1.0
        self._kernel: Kernel | None = None
        self._pretrained: Ensemble | None = None
        self._fitted: Ensemble | None = None
        self._rest: GaussianProcessRegressor | None = None

    # ---------------------------------------------------------------------------------------------------- features

    def _raw_statistics(self, codes: Codes) -> Array:
        costs = self.space.costs(codes)
        columns = [np.sign(costs[name]) * np.log1p(np.abs(costs[name])) for name in self.proxy_names]
        return np.stack(columns, axis=1) if columns else np.zeros((len(codes), 0))

    def _features(self, codes: Codes) -> Features:
        """Return float32 features, numbers spread to about [−1, 1]."""
        architecture, recipe = self.space.encode_codes(codes)
        statistics = (self._raw_statistics(codes) - self._mean) / self._std
        spread = [torch.from_numpy(x).float() for x in (2 * architecture - 1, statistics, 2 * recipe - 1)]
        return spread[0], spread[1], spread[2]

    # ----------------------------------------------------------------------------------------------------- training

    def pretrain(self) -> float:
        """Train every member's encoder on free samples; return the Huber loss of standardised log statistics on others.

        `fit` calls it where it has not been called before.
        """
        samples = self._features(next(self.space.stream(self.seed + 1, chunk=FREE_SAMPLES)))
        members = max(self.members, FOLDS * MEMBERS_PER_FOLD)
        self._pretrained, loss = pretrain(members, samples, torch.Generator().manual_seed(self.seed))
        return loss

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
        self._bounded = bool((self.accuracies >= 0).all() and (self.accuracies <= 1).all())
        scores = self._score(self.accuracies)
        self._centre, self._spread = float(scores.mean()), max(float(scores.std()), 1e-6)
        features, targets = self._features(codes), (scores - self._centre) / self._spread
        self._fitted = self._fit_ensemble(features, targets, np.ones((self.members, len(targets))))
        self._calibrate(features, targets)
        return self

    def _score(self, accuracies: Array) -> Array:
        """Return what is fitted: log odds of accuracies in [0, 1], anything else as it is."""
        return np.asarray(logit(accuracies.clip(EDGE, 1 - EDGE)) if self._bounded else accuracies, dtype=np.float64)

    def _fit_ensemble(self, features: Features, targets: Array, weights: NDArray[Any]) -> Ensemble:
        assert self._pretrained is not None
        generator = torch.Generator().manual_seed(self.seed + 2)
        as_tensors = torch.from_numpy(targets).float(), torch.from_numpy(weights).float()
        return fit_heads(self._pretrained, features, *as_tensors, generator)

    def _calibrate(self, features: Features, targets: Array) -> None:
        """Set the slope, the Gaussian process of what remains, and the rank correlation.

        Slope and kernel are fitted to what members say of examples they never saw. The rank correlation is of predictions
        for the folds left out, by members and processes that never saw them; slope and kernel, four numbers, are shared
        between the folds, so it is a little optimistic for very few examples.
        """
        assert self._fitted is not None
        n = len(targets)
        x = torch.cat(features, dim=1).numpy()
        self._slope, self._kernel, self.rank_correlation = 0.0, None, None
        if n >= SMALLEST_VALIDATION:
            folds = np.random.default_rng(self.seed).permutation(n) % min(FOLDS, n)
            seen = np.array([folds != fold for fold in range(folds.max() + 1)])  # (folds, n)
            ensemble = self._fit_ensemble(features, targets, np.repeat(seen, MEMBERS_PER_FOLD, axis=0))
            by_fold = ensemble.scores(features).double().numpy().reshape(len(seen), MEMBERS_PER_FOLD, n).mean(axis=1)
            unseen = by_fold[folds, np.arange(n)]
            self._slope = float(np.clip(unseen @ targets / max(unseen @ unseen, 1e-12), 0, 1))
            self._kernel = _gaussian_process(None, x, targets - self._slope * unseen).kernel_
            held_out = np.empty(n)
            for fold, known in enumerate(seen):
                rest = _gaussian_process(self._kernel, x[known], (targets - self._slope * by_fold[fold])[known])
                held_out[~known] = self._slope * by_fold[fold, ~known] + rest.predict(x[~known])
            tau = float(kendalltau(held_out, targets).statistic)
            self.rank_correlation = tau if np.isfinite(tau) else 0.0
        self._fit_rest(features, targets)

    def _fit_rest(self, features: Features, targets: Array) -> None:
        """Fit the Gaussian process to what the shrunk ensemble leaves of (n,) targets."""
        assert self._fitted is not None
        said = self._fitted.scores(features).double().numpy().mean(axis=0)
        self._rest = _gaussian_process(self._kernel, torch.cat(features, dim=1).numpy(), targets - self._slope * said)
        self._kernel = self._rest.kernel_

    # --------------------------------------------------------------------------------------------------- predicting

    def predict_codes(self, codes: Codes) -> tuple[Array, Array]:
        """Return (m, n) accuracies, a row a member, of (n, knobs) codes, and the (n,) deviation that all members share.

        Raises `PredictorError` before a fit.
        """
        if self._fitted is None or self._rest is None:
            raise PredictorError("a predictor predicts once it is fitted, got none: call fit or train a first batch")
        members, shared = [np.zeros((self.members, 0))], [np.zeros(0)]
        for start in range(0, len(codes), SCORING_CHUNK):
            features = self._features(codes[start : start + SCORING_CHUNK])
            with _blas().limit(limits=1, user_api="blas"):
                rest, deviation = self._rest.predict(torch.cat(features, dim=1).numpy(), return_std=True)
            members.append(self._slope * self._fitted.scores(features).double().numpy() + rest)
            shared.append(deviation)
        scores = self._centre + self._spread * np.concatenate(members, axis=1)
        deviations = self._spread * np.concatenate(shared)
        return _expected_accuracies(scores, deviations) if self._bounded else (scores, deviations)

    def predict_members(self, candidates: Sequence[Mapping[str, Any]]) -> Array:
        """Return (m, n) accuracies, one row for each member of the ensemble."""
        return self.predict_codes(self.space.to_codes(candidates))[0]

    def predict(self, candidates: Sequence[Mapping[str, Any]]) -> tuple[Array, Array]:
        """Return the mean (n,) and the standard deviation (n,): the members' spread and the Gaussian process's together."""
        return mean_and_std(*self.predict_codes(self.space.to_codes(candidates)))

    # -------------------------------------------------------------------------------------------------- on the disk

    def save(self, folder: Path | str) -> None:
        """Write `predictor.safetensors` and `predictor.json` (space, examples, normalisation) into a folder."""
        if self._fitted is None or self._pretrained is None or self._kernel is None:
            raise PredictorError("a predictor is saved once it is fitted, got none: call fit first")
        folder = Path(folder)
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
            "accuracy": {"bounded": self._bounded, "mean": self._centre, "std": self._spread, "slope": self._slope},
            "kernel": self._kernel.theta.tolist(),
            "rank_correlation": self.rank_correlation,
            "context": self.context,
            "trials": [
                {"candidate": c, "accuracy": float(a)} for c, a in zip(self.candidates, self.accuracies, strict=True)
            ],
        }
        weights = save(tensors)
        about["weights"] = hashlib.sha256(weights).hexdigest()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / WEIGHTS).write_bytes(weights)
            (folder / DESCRIPTION).write_text(json.dumps(about, indent=1), encoding="utf-8")
        except OSError as error:
            raise PredictorError(
                f"a predictor is saved to a writable folder, got {str(folder)!r} ({error.strerror}): choose another"
            ) from error

    @classmethod
    def load(cls, folder: Path | str, cost: CostFunction | None = None) -> Predictor:
        """Return the predictor that `save` wrote. Nothing in the files is executed. Raises `PredictorError`."""
        folder = Path(folder)
        about = read_description(folder)
        try:
            space = Space.from_toml(about["space"], about["input_shape"], about["classes"])
            predictor = cls(space, int(about["seed"]), cost=cost, members=int(about["members"]))
            weights = (folder / WEIGHTS).read_bytes()
            if about["weights"] != hashlib.sha256(weights).hexdigest():
                raise ValueError("weights of another save than predictor.json")
            predictor._restore(about, load(weights))
        except (OSError, LookupError, TypeError, ValueError, AttributeError, RuntimeError, SafetensorError) as error:
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
        fitted = about["accuracy"]
        self._bounded, self._slope = bool(fitted["bounded"]), float(fitted["slope"])
        self._centre, self._spread = float(fitted["mean"]), float(fitted["std"])
        self.rank_correlation, self.context = about["rank_correlation"], about["context"]
        codes = self.space.to_codes([t["candidate"] for t in about["trials"]])
        self.candidates = self.space.to_candidates(codes)
        self.accuracies = np.array([float(t["accuracy"]) for t in about["trials"]])
        features = self._features(codes)
        self._fitted = Ensemble.for_features(self.members, features, torch.Generator())
        self._fitted.load_state_dict({k[7:]: v for k, v in tensors.items() if k.startswith("fitted.")})
        pretrained = {k[11:]: v for k, v in tensors.items() if k.startswith("pretrained.")}
        members = max(self.members, FOLDS * MEMBERS_PER_FOLD)
        self._pretrained = Ensemble.for_features(members, features, torch.Generator())
        missing = self._pretrained.load_state_dict(pretrained, strict=False).missing_keys
        if any(name.startswith(("encoder", "proxy_head")) for name in missing):
            raise ValueError(f"no weights for {missing[0]}")
        self._kernel = _default_kernel().clone_with_theta(np.array(about["kernel"], dtype=np.float64))
        targets = (self._score(self.accuracies) - self._centre) / self._spread
        self._fit_rest(features, targets)


def read_description(folder: Path) -> dict[str, Any]:
    """Return what `predictor.json` in a folder says, the weights unread. Raises `PredictorError`."""
    try:
        about = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        missing = sorted(
            {"format", "space", "input_shape", "classes", "context", "trials", "rank_correlation"} - set(about)
        )
        if missing:
            raise ValueError(f"no {missing[0]}")
        if not (isinstance(about["context"], dict) and isinstance(about["trials"], list)):
            raise ValueError("a context and trials of another kind")
    except FileNotFoundError as error:
        raise PredictorError(
            f"a predictor is a folder with {DESCRIPTION}, got {str(folder)!r}: check the path"
        ) from error
    except (OSError, TypeError, ValueError) as error:
        raise PredictorError(
            f"the files of a predictor are whole, got {error} in {str(folder)!r}: save it again"
        ) from error
    if about["format"] != FORMAT:
        raise PredictorError(
            f"a predictor has format {FORMAT}, got {about['format']!r} in {str(folder)!r}: install the version that wrote it"
        )
    return dict(about)


@cache
def _blas() -> ThreadpoolController:
    """Return what limits NumPy's BLAS: its threads, waiting for more, hold up PyTorch's (13 times for 10 candidates)."""
    return ThreadpoolController()


def mean_and_std(members: Array, shared: Array) -> tuple[Array, Array]:
    """Return the (n,) mean and standard deviation of (m, n) members that share a further (n,) deviation."""
    return members.mean(axis=0), np.sqrt(members.var(axis=0) + shared**2)


def _expected_accuracies(log_odds: Array, deviations: Array) -> tuple[Array, Array]:
    """Return the (m, n) expected accuracies, and their (n,) shared deviation, of log odds with (n,) normal deviations.

    By Gauss–Hermite quadrature, so that an uncertain prediction near 1 is neither as high nor as sure as its middle.
    """
    members, squares = np.zeros_like(log_odds), np.zeros(log_odds.shape[1])
    for node, weight in zip(*np.polynomial.hermite.hermgauss(QUADRATURE_NODES), strict=True):
        at_node = expit(log_odds + np.sqrt(2) * node * deviations)
        members += weight / np.sqrt(np.pi) * at_node
        squares += weight / np.sqrt(np.pi) * at_node.mean(axis=0) ** 2
    return members, np.sqrt(np.maximum(squares - members.mean(axis=0) ** 2, 0))


def _default_kernel() -> Kernel:
    return ConstantKernel(0.5, (1e-3, 10)) * Matern(4.0, (1.0, 50.0), nu=2.5) + WhiteKernel(0.1, (1e-3, 1.0))


def _gaussian_process(kernel: Kernel | None, x: NDArray[Any], y: Array) -> GaussianProcessRegressor:
    """Return a Gaussian process fitted to (n, d) features and (n,) values, its kernel as given or found by the fit."""
    process = (
        GaussianProcessRegressor(kernel, optimizer=None) if kernel else GaussianProcessRegressor(_default_kernel())
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a bound of the kernel's range is a fine answer
        return process.fit(x, y)
