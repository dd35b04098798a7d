"""Policy files: augmentation policies in TOML, which a recipe names as `policy = "mine.toml"`. Reading them executes nothing."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from jointnas.errors import RecipeError
from jointnas.training.policy_text import format_policy, parse_policy

FORMAT = 1
POLICY = "policy"  # the recipe's knob
SUFFIX = ".toml"


def with_policy_text(recipe: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return recipe knobs in which the text of a policy stands for the file that is named, relative to a folder. Raises `RecipeError`."""
    policy = recipe.get(POLICY)
    if not isinstance(policy, str) or not policy.endswith(SUFFIX):
        return dict(recipe)
    return {**recipe, POLICY: read_policy(folder / policy)}


def read_policy(path: Path) -> str:
    """Return the text of the policy in a file. Raises `RecipeError`."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"the policy file {str(path)!r} cannot be read ({error}): check the path") from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"the policy file {str(path)!r} is not valid TOML: {error}; correct the file") from error
    lines = data.get("sub_policies")
    if data.get("format") != FORMAT or not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise RecipeError(
            f"a policy file has format = {FORMAT} and sub_policies, a list of texts, got {sorted(data)} in {str(path)!r}: correct the file"
        )
    try:
        return format_policy(parse_policy("\n".join(lines)))
    except RecipeError as error:
        raise RecipeError(f"in the policy file {str(path)!r}: {error}") from error


def write_policy(path: Path, text: str, results: Mapping[str, Any]) -> None:
    """Write a policy's text into a file, with the accuracies that it reached. Raises `RecipeError`."""
    lines = [format_policy([sub_policy]) for sub_policy in parse_policy(text)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            tomli_w.dumps({"format": FORMAT, "sub_policies": lines, "results": dict(results)}), encoding="utf-8"
        )
    except OSError as error:
        raise RecipeError(
            f"the policy file {str(path)!r} cannot be written ({error.strerror}): choose another --to"
        ) from error
