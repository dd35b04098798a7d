"""Candidate files and winners: what is written is read back, and nothing else is believed."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace

import pytest
import torch

from jointnas.campaign.candidate_file import CandidateFile, built_in_recipes, find_candidate, recipe_path
from jointnas.campaign.folders import WINNER_FILE
from jointnas.campaign.winner_file import Member, WinnerFile, load
from jointnas.errors import BlueprintError, ExportError, JointNASError, RecipeError
from jointnas.network.cost import blueprint_cost
from jointnas.network.families import make_blueprint
from jointnas.network.module import build
from jointnas.network.weights_file import save_weights
from jointnas.training.recipe import Recipe
from jointnas.training.recipe_columns import effective

SHAPE, CLASSES = (1, 8, 8), ("left", "right", "straight on")
ARCHITECTURE = {"network": "resnet9", "width": 4, "resolution": 1.0, "whitening": False}
CANDIDATE = {"architecture": ARCHITECTURE, "recipe": {"optimizer": "sgd", "learning_rate": 0.1, "flip": False}}
FILE = CandidateFile(
    CANDIDATE,
    {"predicted_accuracy": 0.875, "std": 0.0625},
    {"macs": 1000, "params": 10},
    {"data": {"source": "digits", "seed": 0}, "clock": {"train_steps": 5}, "input_shape": [1, 8, 8], "classes": 3},
)
HAND_WRITTEN = '[architecture]\nnetwork = "resnet9"\nwidth = 4\n[recipe]\noptimizer = "adamw"\n'


@pytest.mark.parametrize("kind", ["toml", "json"])
def test_a_candidate_file_is_read_as_it_was_written(kind, tmp_path):
    path = tmp_path / "to" / f"winner.{kind}"
    FILE.write(path, kind)
    assert CandidateFile.read(path) == FILE


@pytest.mark.parametrize("kind", ["toml", "json"])
def test_what_is_not_known_is_left_out_of_a_candidate_file(kind, tmp_path):
    data = {"source": "digits", "train_images": None}
    file = replace(FILE, results={"accuracy": None, "std": 0.5}, training={**FILE.training, "data": data})
    file.write(tmp_path / f"winner.{kind}", kind)
    read = CandidateFile.read(tmp_path / f"winner.{kind}")
    assert read.results == {"std": 0.5}
    assert read.training["data"] == {"source": "digits"}


def test_a_json_export_holds_the_networks_blueprint(tmp_path):
    FILE.write(tmp_path / "winner.json", "json")
    written = json.loads((tmp_path / "winner.json").read_text())
    assert written["blueprint"] == json.loads(json.dumps(make_blueprint(ARCHITECTURE, SHAPE, 3).to_json()))


def test_a_toml_export_is_toml_with_a_format(tmp_path):
    FILE.write(tmp_path / "winner.toml", "toml")
    assert tomllib.loads((tmp_path / "winner.toml").read_text())["format"] == 1


def test_a_file_written_by_hand_needs_no_more_than_the_candidate(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(HAND_WRITTEN)
    read = CandidateFile.read(path)
    assert read.candidate == {
        "architecture": {"network": "resnet9", "width": 4},
        "recipe": {"optimizer": "adamw"},
    }
    assert (read.results, read.costs, read.training) == ({}, {}, {})


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("[architecture\n", ExportError, "valid TOML"),
        ('[architektur]\nnetwork = "resnet9"\n', ExportError, "did you mean 'architecture'"),
        (
            'format = 9\n[architecture]\nnetwork = "resnet9"\n',
            ExportError,
            "has format 9, but this version reads format 1",
        ),
        ('recipe = "fast"\n[architecture]\nnetwork = "resnet9"\n', ExportError, r"write \[recipe\]"),
        ('[architecture]\nnetwork = "resnet99"\n', BlueprintError, "did you mean 'resnet9'"),
        ("[architecture]\nwidth = 4\n", BlueprintError, "needs a network"),
        ('[architecture]\nnetwork = "resnet9"\nwidht = 4\n', BlueprintError, "did you mean 'width'"),
        ('[architecture]\nnetwork = "resnet9"\nwidth = 0\n', BlueprintError, "width"),
        (HAND_WRITTEN + "learning_rat = 1.0\n", RecipeError, "did you mean 'learning_rate'"),
        (
            HAND_WRITTEN + "[portfolio]\nimage_size = 0\n",
            ExportError,
            r"\[portfolio\] has steps and image_size, got image_size = 0",
        ),
        (
            HAND_WRITTEN + "[portfolio]\nsize = 64\n",
            ExportError,
            r"\[portfolio\] has steps and image_size, got size = 64",
        ),
    ],
)
def test_a_candidate_file_that_is_wrong_is_refused_with_the_remedy(text, error, message, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(error, match=message):
        CandidateFile.read(path)


@pytest.mark.parametrize("line", ['width = "wide"', 'depth1 = "two"', 'resolution = "half"', "depth3 = 1.5"])
def test_a_knob_of_the_wrong_type_is_a_users_error(line, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(f'[architecture]\nnetwork = "resnet9"\n{line}\n')
    with pytest.raises(JointNASError, match=line.split()[0]):
        CandidateFile.read(path)


def test_a_candidate_file_that_is_not_there_or_not_a_table_is_refused(tmp_path):
    with pytest.raises(ExportError, match="check the path"):
        CandidateFile.read(tmp_path / "none.toml")
    with pytest.raises(ExportError, match="check the path"):
        CandidateFile.read(tmp_path)
    (tmp_path / "list.json").write_text("[1, 2]")
    with pytest.raises(ExportError, match="must hold a table, got a list"):
        CandidateFile.read(tmp_path / "list.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ExportError, match="valid TOML or JSON"):
        CandidateFile.read(tmp_path / "broken.json")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ExportError, match="cannot be read"):
        CandidateFile.read(tmp_path / "bytes.toml")


def test_an_export_of_an_unknown_format_or_to_an_unwritable_place_is_refused(tmp_path):
    with pytest.raises(ExportError, match="no export format is called 'yaml': choose toml or json"):
        FILE.write(tmp_path / "winner.yaml", "yaml")
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot be written"):
        FILE.write(tmp_path / "file" / "winner.toml", "toml")


# ---------------------------------------------------------------------------------------------------- built-in recipes

TEAMS = {
    "nomad-senet",
    "resnet9-baseline",
    "resnet9-mltp",
    "resnet9-sam",
    "resnet9-sam-gc",
    "resnet9-sam-ip",
}


def costs_of(name):
    return blueprint_cost(make_blueprint(find_candidate(name).candidate["architecture"], (3, 32, 32), 10))


def test_the_recipes_of_both_teams_travel_with_the_package():
    assert set(built_in_recipes()) >= TEAMS
    assert built_in_recipes() == sorted(built_in_recipes())


@pytest.mark.parametrize("name", built_in_recipes())
def test_a_built_in_recipe_is_a_candidate_whose_network_answers(name):
    file = find_candidate(name)
    assert file == CandidateFile.read(recipe_path(name))
    assert Recipe.from_knobs(file.candidate["recipe"])
    assert (file.results, file.costs, file.training) == ({}, {}, {})
    network = build(make_blueprint(file.candidate["architecture"], (3, 32, 32), 10))
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert sum(p.numel() for p in network.parameters()) == costs_of(name)["params"]


@pytest.mark.parametrize("name", sorted(TEAMS))
def test_a_built_in_recipe_has_the_published_size(name):
    found = costs_of(name)
    if name == "nomad-senet":
        assert found["params"] == 5_064_766
        assert round(found["macs"] / 1e6, 1) == 250.8
    elif name == "resnet9-sam-ip":
        assert found["params"] == 6_570_880
    else:  # a trained 3×3 convolution in the place of the whitening and its 1×1 one
        assert found["params"] == 6_570_880 - 27 * 64 + 9 * 3 * 64


def test_a_recipe_is_for_images_of_the_size_that_it_is_known_for_unless_it_says_otherwise():
    sizes = {name: find_candidate(name).input_shape for name in ("resnet9-1m-photos-64", "resnet9-1m", "nomad-senet")}
    assert sizes == {"resnet9-1m-photos-64": (3, 64, 64), "resnet9-1m": (3, 32, 32), "nomad-senet": (3, 32, 32)}
    assert FILE.input_shape == tuple(FILE.training["input_shape"])


def test_the_resnet9_recipes_are_their_baseline_and_what_their_names_say():
    def knobs(name):
        found = Recipe.from_knobs(find_candidate(name).candidate["recipe"])
        return effective(found, 32, 32)

    def differs(name):
        base = knobs("resnet9-baseline")
        return {knob: value for knob, value in knobs(name).items() if value != base[knob]}

    assert differs("resnet9-sam") == {"gradient": "sam"}  # its radius is the default
    assert differs("resnet9-sam-gc") == {"gradient": "sam", "gradient_centralisation": True}
    assert differs("resnet9-mltp") == {"gradient": "mltp"}
    assert differs("resnet9-sam-ip") == {
        "gradient": "sam",
        "weight_decay": 5e-4,
        "bias_weight_decay": 5e-4 / 64,
        "label_smoothing": 0.1,
    }
    architectures = {name: find_candidate(name).candidate["architecture"] for name in TEAMS - {"nomad-senet"}}
    winner = architectures.pop("resnet9-sam-ip")
    assert all(other == architectures["resnet9-baseline"] for other in architectures.values())
    assert winner == {**architectures["resnet9-baseline"], "activation": "celu", "whitening": True}


@pytest.mark.parametrize("kind", ["toml", "json"])
def test_a_candidate_is_found_by_its_path(kind, tmp_path):
    path = tmp_path / f"winner.{kind}"
    FILE.write(path, kind)
    assert find_candidate(path) == find_candidate(str(path)) == FILE
    with pytest.raises(ExportError, match="check the path"):
        find_candidate(tmp_path / f"none.{kind}")


def test_an_unknown_recipe_is_refused_with_the_nearest():
    with pytest.raises(ExportError, match="no built-in recipe is called 'nomad-senat': did you mean 'nomad-senet'"):
        find_candidate("nomad-senat")
    with pytest.raises(ExportError, match=r"no built-in recipe is called 'resnet9': .*resnet9-"):
        recipe_path("resnet9")
    with pytest.raises(ExportError, match="no built-in recipe"):
        find_candidate("../recipes/nomad-senet")


# ------------------------------------------------------------------------------------------------------------ winners


def make_member(folder, seed, width=4, flip=False):
    network = make_blueprint({**ARCHITECTURE, "width": width}, SHAPE, len(CLASSES))
    save_weights(build(network, torch.Generator().manual_seed(seed)), folder / f"seed-{seed}.safetensors")
    return Member(network, f"seed-{seed}.safetensors", (0.25,), (0.5,), flip)


def write_winner(folder, *members):
    winner = WinnerFile(members, CLASSES, CANDIDATE, {"rank": 1})
    winner.write(folder)
    return winner


def edit_winner(folder, change):
    data = json.loads((folder / WINNER_FILE).read_text())
    change(data)
    (folder / WINNER_FILE).write_text(json.dumps(data))


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (5, *SHAPE), dtype=torch.uint8, generator=generator)


def test_a_winner_is_read_as_it_was_written(tmp_path):
    winner = write_winner(tmp_path, make_member(tmp_path, 0), make_member(tmp_path, 1, width=6, flip=True))
    assert WinnerFile.read(tmp_path) == winner


def test_a_loaded_model_gives_probabilities_of_its_classes(tmp_path, images):
    write_winner(tmp_path, make_member(tmp_path, 0))
    model = load(tmp_path)
    found = model(images)
    assert model.classes == CLASSES
    assert found.shape == (5, 3)
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(dim=1), torch.ones(5))


def test_a_models_input_is_normalised_as_its_member_says(tmp_path, images):
    member = make_member(tmp_path, 0)
    write_winner(tmp_path, member)
    model = load(tmp_path)
    pixels = (images / 255 - 0.25) / 0.5
    torch.testing.assert_close(model(images), model.networks[0](pixels).softmax(dim=1))


def test_a_flipped_member_answers_with_the_mean_logits_of_an_image_and_its_mirror(tmp_path, images):
    write_winner(tmp_path, make_member(tmp_path, 0, flip=True))
    model = load(tmp_path)
    pixels = (images / 255 - 0.25) / 0.5
    logits = (model.networks[0](pixels) + model.networks[0](pixels.flip(3))) / 2
    torch.testing.assert_close(model(images), logits.softmax(dim=1))
    torch.testing.assert_close(model(images), model(images.flip(3)))
    assert not torch.allclose(model(images), model.networks[0](pixels).softmax(dim=1), atol=1e-4)


def test_flipped_and_other_members_vote_together(tmp_path, images):
    plain, flipped = make_member(tmp_path, 0), make_member(tmp_path, 1, flip=True)
    votes = []
    for members in ([plain], [flipped], [plain, flipped]):
        write_winner(tmp_path, *members)
        votes.append(load(tmp_path)(images))
    torch.testing.assert_close(votes[2], (votes[0] + votes[1]) / 2)


def test_an_image_scores_the_same_alone_and_in_a_batch(tmp_path, images):
    write_winner(tmp_path, make_member(tmp_path, 0))
    model = load(tmp_path)
    torch.testing.assert_close(model(images[2:3]), model(images)[2:3])


@pytest.mark.parametrize("wrong", [torch.zeros(1, 8, 8), torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 9, 8)])
def test_images_of_another_shape_or_type_are_refused(wrong, tmp_path, images):
    write_winner(tmp_path, make_member(tmp_path, 0))
    model = load(tmp_path)
    with pytest.raises(ExportError, match="1×8×8"):
        model(wrong.to(torch.uint8))
    with pytest.raises(ExportError, match="uint8"):
        model(images.float())


def test_two_members_vote_by_their_mean_and_their_costs_add_up(tmp_path, images):
    small, large = make_member(tmp_path, 0), make_member(tmp_path, 1, width=6)
    for name, members in (("small", [small]), ("large", [large]), ("both", [small, large])):
        for member in members:
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / member.weights).write_bytes((tmp_path / member.weights).read_bytes())
        write_winner(tmp_path / name, *members)
    votes = {name: load(tmp_path / name)(images) for name in ("small", "large", "both")}
    assert not torch.allclose(votes["small"], votes["large"])
    torch.testing.assert_close(votes["both"], (votes["small"] + votes["large"]) / 2)
    both = WinnerFile.read(tmp_path / "both").costs
    assert both == {
        m: blueprint_cost(small.blueprint)[m] + blueprint_cost(large.blueprint)[m]
        for m in blueprint_cost(small.blueprint)
    }


def test_a_flipped_member_counts_twice_for_each_image_and_once_in_memory(tmp_path):
    plain, flipped = make_member(tmp_path, 0), make_member(tmp_path, 1, flip=True)
    one, both = (write_winner(tmp_path, *members).costs for members in ([plain], [plain, flipped]))
    assert {metric: both[metric] / one[metric] for metric in one} == {
        "macs": 3, "params": 2, "activations": 3, "size": 2, "memory": 2, "bitops": 3,
    }  # fmt: skip


@pytest.mark.parametrize("way_out", ["../outside.safetensors", "{outside}"])
def test_weights_outside_the_winners_folder_are_not_followed(way_out, tmp_path):
    folder, outside = tmp_path / "winner", tmp_path / "outside.safetensors"
    folder.mkdir()
    write_winner(folder, make_member(folder, 0))
    (folder / "seed-0.safetensors").rename(outside)
    edit_winner(folder, lambda data: data["members"][0].update(weights=way_out.format(outside=outside)))
    with pytest.raises(ExportError, match=r"outside\.safetensors"):
        load(folder)
    outside.rename(folder / "outside.safetensors")  # the name alone counts, in the folder
    assert load(folder).classes == CLASSES


def test_weights_of_another_network_or_none_are_refused(tmp_path):
    write_winner(tmp_path, make_member(tmp_path, 0))
    other = make_member(tmp_path, 1, width=6)
    write_winner(tmp_path, replace(make_member(tmp_path, 0), weights=other.weights))
    with pytest.raises(ExportError, match="fit their blueprint"):
        load(tmp_path)
    (tmp_path / other.weights).write_bytes(b"no weights")
    with pytest.raises(ExportError, match="retrain"):
        load(tmp_path)
    (tmp_path / other.weights).unlink()
    with pytest.raises(ExportError, match="retrain"):
        load(tmp_path)


@pytest.mark.parametrize("key", ["format", "members", "classes", "candidate", "results"])
def test_a_winner_without_one_of_its_parts_is_refused(key, tmp_path):
    write_winner(tmp_path, make_member(tmp_path, 0))
    edit_winner(tmp_path, lambda data: data.pop(key))
    with pytest.raises(ExportError, match=key):
        WinnerFile.read(tmp_path)


def test_a_winner_without_a_member_is_refused(tmp_path):
    write_winner(tmp_path, make_member(tmp_path, 0))
    edit_winner(tmp_path, lambda data: data.update(members=[]))
    with pytest.raises(ExportError, match="member"):
        load(tmp_path)


def test_a_winner_of_another_format_is_refused(tmp_path):
    write_winner(tmp_path, make_member(tmp_path, 0))
    edit_winner(tmp_path, lambda data: data.update(format=2))
    with pytest.raises(ExportError, match="has format 2, but this version reads 1"):
        load(tmp_path)


def test_a_folder_without_a_winner_is_told_with_the_one_inside_it(tmp_path):
    with pytest.raises(ExportError, match="retrain a winner first"):
        load(tmp_path)
    (tmp_path / "winner-1").mkdir()
    write_winner(tmp_path / "winner-1", make_member(tmp_path, 0))
    with pytest.raises(ExportError, match="winner-1"):
        load(tmp_path)
