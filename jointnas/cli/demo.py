"""`jointnas demo`: a whole campaign on built-in images, in half a minute."""

from __future__ import annotations

from statistics import median

from jointnas.cli.common import Quiet, interruptible, messages

BOUND = "macs<1M"
SETTINGS = {"data": "digits", "train_images": 100, "val_images": 500, "train_time": "2s", "rounds": 3, "batch": 6}
"""Few images, so that it matters which network is trained by which recipe."""


def demo_command(quiet: Quiet = False) -> None:
    """Search a network and a recipe for 100 handwritten digits, in half a minute: nothing is downloaded.

    \b
    Examples:
      jointnas demo
    """
    from jointnas.campaign.campaign import run
    from jointnas.campaign.options import make_spec
    from jointnas.campaign.spec import SearchSpec
    from jointnas.cli.answers import print_answer
    from jointnas.cli.display import Display
    from jointnas.cores import available_cores

    settings = {**SETTINGS, "workers": min(2, available_cores())}
    words = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in settings.items())
    messages.print(f"jointnas search --constraint '{BOUND}' {words}")
    spec = make_spec({**settings, "constraints": [BOUND]})
    assert isinstance(spec, SearchSpec)
    with interruptible(lambda: "start it again"), Display(spec) as display:
        campaign = run(spec, [display])
    print_answer(campaign)
    first = [row["observation"]["accuracy"] for row in campaign.trials if row["round"] == 1 and row["observation"]]
    reached = [accuracy for accuracy in first if accuracy is not None]
    messages.print(
        f"The median training of the first round reached {median(reached):.4f}. Your own images: --data FOLDER"
    )
