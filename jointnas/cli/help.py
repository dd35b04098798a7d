"""The help of commands: options in groups, in plain text."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

ARGUMENTS, OTHERS = "Arguments", "Options"
HELP_NAMES = {"help_option_names": ["-h", "--help"]}


class GroupedCommand(TyperCommand):
    """A command whose help shows its options by their groups (`rich_help_panel`), one section each."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the sections in the order in which their first options stand."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                group = ARGUMENTS if param.param_type_name == "argument" else getattr(param, "rich_help_panel", None)
                sections.setdefault(group or OTHERS, []).append(record)
        for name, rows in sections.items():
            with formatter.section(name):
                formatter.write_dl(rows)


def examples_of(docstring: str | None) -> str:
    """Return the examples in a command's docstring, each on a line."""
    lines = (docstring or "").partition("Examples:")[2].splitlines()
    return "\n".join(f"  {line.strip()}" for line in lines if line.strip())
