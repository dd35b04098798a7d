"""The outcome of a search of augmentation policies: the best ones, joined into one policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jointnas.campaign.candidate_file import make_writable
from jointnas.campaign.policy_file import SUFFIX, write_policy
from jointnas.campaign.result import Campaign
from jointnas.campaign.spec import PolicySpec
from jointnas.campaign.store import Run
from jointnas.errors import ExportError, RecipeError, RunError
from jointnas.space.space import Space
from jointnas.training.policy_text import KNOB, format_policy, parse_policy, split_knobs

POLICY_FILE = "policy.toml"  # in a run's folder


def joined_policy(campaign: Campaign, to: Path | None = None) -> tuple[str, Path | None]:
    """Return the winners' policies joined into one text, and the policy file that it is written to.

    AutoAugment joins five policies of five sub-policies into 25. Where policies are no text, as RandAugment's, the best one's knobs are
    returned, and nothing is written. Raises `RunError` for a run of another kind.
    """
    with Run.open(campaign.path) as run:
        spec, winners = run.spec, run.winners()
    if not isinstance(spec, PolicySpec):
        raise RunError(f"only a policy run has policies, got a {spec.kind} run in {str(campaign.path)!r}: name another")
    found = [split_knobs({**w.candidate["architecture"], **w.candidate["recipe"]}) for w in winners]
    texts = [text for text, _ in found if text is not None]
    if not texts:
        return ", ".join(f"{name} {value}" for name, value in found[0][1].items()), None
    joined = format_policy([sub_policy for text in texts for sub_policy in parse_policy(text)])
    path = to or campaign.path / POLICY_FILE
    results: dict[str, Any] = {
        "accuracies": [w.accuracy for w in winners if w.accuracy is not None],
        "run": str(campaign.path),
    }
    results |= {"recipe": found[0][1]} if found[0][1] else {}  # knobs that were searched beside the policy, of the best
    write_policy(path, joined, results)
    return joined, path


def check_writable(to: Path, spec: PolicySpec) -> None:
    """Raise `RecipeError` unless a search of this spec can write its policy file, before hours go into it."""
    names = [knob.name for knob in Space.from_toml(spec.space).knobs]
    if not any(KNOB.fullmatch(name) for name in names):
        raise RecipeError(
            f"the space has no policies as text, got --to {str(to)!r}: drop it, the best point is printed"
        )
    if to.suffix != SUFFIX:
        raise RecipeError(f"a policy file is a {SUFFIX} file, got --to {str(to)!r}: change its name")
    try:
        make_writable(to.parent)
    except ExportError as error:
        raise RecipeError(str(error)) from error
