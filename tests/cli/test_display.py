"""The terminal while a campaign runs: what it advises after an interruption."""

from pathlib import Path

from jointnas.campaign.events import RunOpened
from jointnas.campaign.options import make_spec
from jointnas.campaign.spec import SearchSpec
from jointnas.campaign.store import Context
from jointnas.cli.display import Display
from jointnas.execution.slots import Slot


def test_before_the_run_is_made_there_is_nothing_to_resume() -> None:
    spec = make_spec({})
    assert isinstance(spec, SearchSpec)
    display = Display(spec)
    assert "--resume" not in display.remedy
    display(RunOpened(Path("runs/a b"), spec, Context(None, None, None, Slot("cpu", 1, 1)), []))
    assert "--resume and --out 'runs/a b'" in display.remedy
