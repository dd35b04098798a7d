"""The network that is pretrained on tables of trainings: what it ranks, its files, and predictors that start from it."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau

from jointnas.campaign.portfolio import starting_candidates
from jointnas.campaign.registry import find_predictor, find_prior
from jointnas.errors import PredictorError
from jointnas.predictor.contract import Predictor
from jointnas.predictor.pretrained import Pretrained
from jointnas.predictor.prior import Budget, EarlierCampaign
from jointnas.predictor.task import Task, TrainingImages
from jointnas.resources import resource_folder
from jointnas.space.constraint import parse_all
from jointnas.space.space import Space
from jointnas.training.observation import Observation

FOLDER = resource_folder("predictors") / "tables"
SPACE = Space.load("resnet9", (3, 32, 32), 10)


@pytest.fixture(scope="module")
def pretrained() -> Pretrained:
    return Pretrained.load(FOLDER)


def test_it_ranks_trainings_of_an_earlier_campaign_that_it_was_fitted_to(pretrained: Pretrained) -> None:
    campaign = Predictor.load(find_predictor("resnet9-cifar10")[0])
    codes = campaign.space.to_codes(campaign.candidates[:300])
    steps = np.array([o.steps for o in campaign.observations[:300]], dtype=np.float64)
    scores = pretrained.scores(campaign.space, codes, Budget(np.log(steps), 0.0, TrainingImages(5000, 0.99)))
    assert kendalltau(scores, campaign.accuracies[:300]).statistic > 0.7
    unknown = pretrained.scores(campaign.space, codes, Budget())
    assert kendalltau(unknown, campaign.accuracies[:300]).statistic > 0.6


@pytest.mark.parametrize("name", ["resnet9", "fbnet", "joint", "chain", "senet", "mobilenet"])
@pytest.mark.parametrize("kind", ["gp", "mlp"])
def test_a_search_of_any_space_with_networks_starts_from_it(name: str, kind: str) -> None:
    space = Space.load(name, (3, 32, 32), 10)
    prior = find_prior(None, space)
    assert isinstance(prior, Pretrained)
    predictor = Predictor(space, prior=prior, kind=kind, task=Task(TrainingImages(5000)))
    mean, deviation = predictor.predict(space.sample(20, seed=3))
    assert ((mean > 0) & (mean < 1) & (deviation > 0)).all()
    assert mean.std() > 0


def test_other_priors_are_found_by_name() -> None:
    assert find_prior("none", SPACE) is None
    assert isinstance(find_prior("resnet9-digits", SPACE), EarlierCampaign)
    assert isinstance(find_prior("tables", SPACE), Pretrained)
    abstract = Space.from_toml("format = 1\n[architecture]\nx = { low = 0.0, high = 1.0 }\n")
    assert find_prior(None, abstract) is None
    with pytest.raises(PredictorError, match="no network"):
        Predictor(abstract, prior=find_prior("tables", abstract))
    with pytest.raises(PredictorError, match="--prior"):
        find_predictor("tables")


@pytest.mark.parametrize("kind", ["gp", "mlp"])
def test_trainings_correct_it(kind: str, pretrained: Pretrained) -> None:
    """Where it is wrong about a campaign, which here likes narrow networks alone, trainings overrule it."""
    candidates, unseen = SPACE.sample(96, seed=1), SPACE.sample(200, seed=2)

    def accuracy(codes: np.ndarray) -> np.ndarray:
        return 0.9 - 0.03 * np.log(SPACE.costs(codes)["macs"] / 1e5)

    codes, asked = SPACE.to_codes(candidates), SPACE.to_codes(unseen)
    predictor = Predictor(SPACE, prior=pretrained, kind=kind, task=Task(TrainingImages(5000)))
    before = kendalltau(predictor.scores(asked), accuracy(asked)).statistic
    predictor.fit_codes(codes, [Observation(float(a)) for a in accuracy(codes)])
    assert kendalltau(predictor.scores(asked), accuracy(asked)).statistic > before + 0.2


@pytest.mark.parametrize("kind", ["gp", "mlp"])
def test_a_predictor_keeps_it_in_its_folder(kind: str, pretrained: Pretrained, tmp_path: Path) -> None:
    candidates = SPACE.sample(8)
    predictor = Predictor(SPACE, prior=pretrained, kind=kind).fit(candidates, np.linspace(0.2, 0.7, 8))
    predictor.save(tmp_path)
    loaded = Predictor.load(tmp_path)
    assert isinstance(loaded.prior, Pretrained)
    assert loaded.prior.card == pretrained.card
    np.testing.assert_allclose(loaded.predict(candidates), predictor.predict(candidates), rtol=1e-5)


@pytest.mark.parametrize("bound", ["macs<10M", "macs<20M"])
def test_mirror_images_help_photos_and_harm_letters(bound: str, pretrained: Pretrained) -> None:
    recipe = starting_candidates(SPACE, parse_all([bound], SPACE.metrics), 4, 900)["resnet9-1m"]
    pairs = [{**recipe, "recipe": recipe["recipe"] | {"flip": flip, "test_flip": False}} for flip in (True, False)]
    codes, log_steps = SPACE.to_codes(pairs), np.full(2, np.log(900))
    gains = {}
    for symmetry in (1.0, 0.3):
        scores = pretrained.scores(SPACE, codes, Budget(log_steps, 0.0, TrainingImages(2500, symmetry)))
        gains[symmetry] = scores[0] - scores[1]
    assert gains[1.0] > 0 > gains[0.3]


def test_it_is_loaded_and_predicts_without_torch() -> None:
    code = f"""
import sys
from pathlib import Path
from jointnas.predictor.pretrained import Budget, Pretrained
from jointnas.space.space import Space
space = Space.load("resnet9", (3, 32, 32), 10)
Pretrained.load(Path({str(FOLDER)!r})).scores(space, space.to_codes(space.sample(4)), Budget())
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_changed_files_are_refused(pretrained: Pretrained, tmp_path: Path) -> None:
    pretrained.save(tmp_path)
    assert Pretrained.load(tmp_path).digest == pretrained.digest
    card = json.loads((tmp_path / "pretrained.json").read_text())
    for change, message in (({"rows": 1}, "changed since"), ({"format": 9}, "has format 9")):
        (tmp_path / "pretrained.json").write_text(json.dumps({**card, **change}))
        with pytest.raises(PredictorError, match=message):
            Pretrained.load(tmp_path)


def test_what_differs_between_data_sets_is_relevant_and_what_is_unknown_is_as_usual(
    pretrained: Pretrained, tmp_path: Path
) -> None:
    flip, unknown, bias = pretrained.relevance(["flip=False", "no such feature", "bias_weight_decay is on"])
    assert flip > 1 == unknown
    assert flip > bias
    pretrained.save(tmp_path)
    assert Pretrained.load(tmp_path).relevance(["flip=False"]) == pretrained.relevance(["flip=False"])
    campaign = Predictor(SPACE, prior=pretrained).fit(SPACE.sample(4), [0.1, 0.2, 0.3, 0.4])
    assert EarlierCampaign(campaign).relevance(["flip=False"]) == pretrained.relevance(["flip=False"])


def test_a_relevance_that_is_no_positive_number_is_refused(pretrained: Pretrained, tmp_path: Path) -> None:
    broken = Pretrained(
        pretrained.inputs,
        pretrained.parameters,
        pretrained.step_seconds,
        replace(pretrained.card, relevance={"crop": -1.0}),
    )
    broken.save(tmp_path)
    with pytest.raises(PredictorError, match="damaged"):
        Pretrained.load(tmp_path)
