"""Mistakes: each is one line that names its remedy, before anything is trained or written."""

from __future__ import annotations

import re
import sqlite3

import pytest

from jointnas.campaign.store import DATABASE
from jointnas.cores import available_cores
from tests.cli.commands import CANDIDATE
from tests.helpers import jointnas, make_run, mistake, save_image


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder with everything that can be wrong."""
    folder = tmp_path_factory.mktemp("desk")
    files = {
        "network.toml": 'format = 1\n[architecture]\nnetwork = "resnet99"\nwidth = 4\n',
        "malformed.toml": "[architecture\n",
        "upside_down.toml": 'format = 1\n[architecture]\nnetwork = "resnet9"\nwidth = { low = 9, high = 4 }\n',
        "condition.toml": 'format = 1\n[architecture]\nnetwork = "resnet9"\nwidth = { low = 4, high = 9, when = { dept = 1 } }\n',
        "misfit.toml": '[architecture]\nnetwork = "resnet9"\nwidht = 4\n',
        "text.toml": '[architecture]\nnetwork = "resnet9"\nwidth = "wide"\n',
        "mine.toml": CANDIDATE,
        "half.toml": CANDIDATE + '[training.data]\nsource = "digits"\n',
        "clock.toml": CANDIDATE + "[training.clock]\nhours = 1\n",
        "diverge.toml": CANDIDATE + "learning_rate = 10\nweight_decay = 1.0\nwarmup = 0.0\nmomentum = 0.99\n",
        "whole.toml": CANDIDATE.replace("32", "60000"),
        "policy.toml": CANDIDATE + 'policy = "autoaugment"\n',
        "magnitude.toml": CANDIDATE + 'policy = "randaugment"\npolicy_magnitude = 31\n',
        "probability.toml": CANDIDATE + "mixup = 0.2\nmix_probability = 1.5\n",
        "rate.toml": CANDIDATE + "learning_rate = 11\n",
        "file": "",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    for i in range(10):
        save_image(folder / "one" / "cat" / f"{i}.png", i)
        save_image(folder / "broken" / "cat" / f"{i}.png", i)
        save_image(folder / "broken" / "dog" / f"{i}.png", i)
        save_image(folder / "mixed" / ("cat" if i % 2 else "dog") / f"{i}.png", i, 8 + i)
    (folder / "broken" / "dog" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    make_run(folder / "newer").close()
    with sqlite3.connect(folder / "newer" / DATABASE) as db:
        db.execute("PRAGMA user_version = 99")
    return folder


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("search --space resnet99", "did you mean 'resnet9'"),
        ("search --space none.toml", "none.toml"),
        ("search --space network.toml", "did you mean 'resnet9'"),
        ("search --space malformed.toml", "valid TOML"),
        ("search --space upside_down.toml", r"width.*(low|9)"),
        ("search --space condition.toml", "dept"),
        ("search --fix widht=8", "did you mean 'width'"),
        ("search --fix width", "knob=value"),
        ("search --fix width=banana", "banana"),
        ("search --engine evolutoin", "did you mean 'evolution'"),
        ("search --real --engine all", "choose one engine"),
        ("search --real --early-stop 0.9", "drop one"),
        ("search --repeats 3", "add --real"),
        ("search --real --repeats 0", "must be 1 or more, got 0"),
        ("search --frontier macs", "name the run"),
        ("search --from none --frontier macs -c accuracy>=0.5", "trades accuracy itself"),
        ("search --total-time 1h --real --repeats 3", "one training for each candidate, got --repeats 3"),
        ("search -c macs<1e9999999", "finite"),
        ("predictors fit none --to x --seed -1", "--seed must be 0 or more, got -1"),
        ("predictors show none --top 0", "--top must be 1 or more, got 0"),
        ("predictors fit none --to x", "no run is called 'none'"),
        ("search --sweep macs<1M,2M", "name the run"),
        ("search --from resnet9-digits --measure macs", "no measured metric is called 'macs'"),
        ("search --from resnet9-digits --sweep macs", "write it like 'macs<5M,10M,20M'"),
        ("search --from none --sweep macs<1M --frontier macs", "does not go with --sweep"),
        ("search --start nothing.toml", "nothing.toml"),
        ("search --space senet --start resnet9-baseline", "fixed at 'senet', got 'resnet9'"),
        ("search --real -c accuracy>=0.5", "needs an objective that minimises a cost"),
        ("search --data digit", "did you mean 'digits'"),
        ("search --data file", "convert it"),
        ("search --data one", "two classes or more, got cat"),
        ("search --data broken", "3.png"),
        ("search --data mixed", "--image-size"),
        ("search --train-images 5000", "5000 were requested"),
        ("search --val-images 5000", "5000 were requested"),
        ("search --train-images 0", "--train-images must be 1 or more, got 0"),
        ("search --train-time 0s", "above 0 seconds"),
        ("search --train-time 10x", "units.*'x'"),
        ("search --train-time 10s --train-steps 10", "drop one"),
        ("search --train-steps 0", "one step or more"),
        ("search --total-time 1h --train-steps 10", "--total-time needs a training time"),
        ("search --total-time 1h --train-time 10s --workers 0", "--workers must be 1 or more, got 0"),
        ("search --seed 100000", "--seed must lie between 0 and 99999, got 100000"),
        ("search --from resnet9-digits -c accuracy>=90%", "an accuracy is a number, got '90%': write it like 0.9"),
        ("retrain winner.toml --query 2", "among a run's winners, got --query 2"),
        ("search --total-time 1s --train-time 10s --rounds 2 --confirm 0", "give 20s or more"),
        ("search --total-time 1s --train-time 10s --rounds 2", "one training a round.*give 20s or more"),
        ("search --confirm 29", "leave one training a round, between 0 and 28, got 29"),
        ("search --final all", r"--final is best or train\+val, got 'all'"),
        ("search --real --final train+val", "--real keeps its best network"),
        ("search --portfolio -1", "--portfolio must be 0 or more, got -1"),
        ("search --real --portfolio 2", "starts where --start says, got --portfolio 2"),
        ("search --real --confirm 1", "--real confirms winners with --repeats"),
        ("search --from nothing --out there", "no run and no predictor is called 'nothing'"),
        ("search --rounds 0", "--rounds must be 1 or more, got 0"),
        ("search --workers 99", f"share {available_cores()} cores.*got 99"),
        ("search --device tpu", "'tpu'"),
        ("search -c mac<1M", "did you mean 'macs'"),
        ("search -c macs", "'macs<40M'"),
        ("search -c macs<1Q", "units.*'Q'"),
        ("search -c macs<1K", r"smallest macs it reaches is \d"),
        ("search --out file/run --train-steps 1", "cannot be made.*--out"),
        ("search --from none", "no run and no predictor is called 'none'"),
        ("search --from newer", "format 99.*upgrade"),
        ("runs show newer", "format 99.*upgrade"),
        ("runs show none", "no run is called 'none'"),
        ("export newer", "format 99.*upgrade"),
        ("export none", "no run is called 'none'"),
        ("train misfit.toml", "did you mean 'width'"),
        ("train none.toml", "check the path"),
        ("train clock.toml --data digits", "clock"),
        ("retrain misfit.toml", "did you mean 'width'"),
        ("retrain mine.toml", "use jointnas train"),
        ("retrain half.toml", "half.toml|training"),
        ("show misfit.toml", "did you mean 'width'"),
        ("show text.toml", "width"),
        ("show mine.toml --input-shape 28x28", "3x32x32"),
        ("show one", "winner.json"),
        ("predict one one/cat/0.png", "winner.json"),
        ("search --early-stop 1.5", r"in \(0, 1\], got 1\.5"),
        ("train resnet9-sma", "did you mean 'resnet9-sam'"),
        ("train diverge.toml --train-steps 30", r"loss is (nan|inf) at step \d+ .*learning_rate = 10"),
        ("train whole.toml --train-steps 1", "batch_size = 60000 is larger than the training set"),
        ("train policy.toml", "policy must be one of none, autoaugment-cifar10, .*got 'autoaugment'"),
        ("train magnitude.toml", "policy_magnitude must be between 0 and 30, got 31"),
        ("train probability.toml", r"mix_probability must be between 0 and 1, got 1\.5"),
        ("train rate.toml", "learning_rate must be between 1e-05 and 10, got 11"),
        ("recipes show nomad-senett", "did you mean 'nomad-senet'"),
        ("augment --fix polcy=none", "did you mean 'policy'"),
        ("augment --fix policy=autoaugment", "policy must be one of none"),
        ("augment --show sheet.txt", "a picture is a .png"),
        ("augment --show file/sheet.png", "writable folder"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_its_remedy(line, message, desk, monkeypatch):
    monkeypatch.chdir(desk)
    assert re.search(message, mistake(jointnas(*line.split())))
    assert not (desk / "runs").exists()
