"""Reports: complete, offline, escaped, and readable in a browser."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from html.parser import HTMLParser
from pathlib import Path

import pytest

from jointnas.campaign.store import Run
from jointnas.report.contents import Contents
from jointnas.report.live import LiveReport
from jointnas.report.page import page
from jointnas.training.observation import Observation
from tests.helpers import answer, jointnas

SECTIONS = (
    "Winners", "Accuracy and cost",
    "Efficiency", "Progress", "Predicted and trained", "What matters", "Trainings", "Learning curves", "Time",
    "Network", "Training images", "Confusion", "Repeat it",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run with a retrained winner."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        given = (
            "-c",
            "macs<1M",
            "--train-steps",
            "20",
            "--rounds",
            "2",
            "--batch",
            "4",
            "--top",
            "2",
            "--portfolio",
            "1",
        )
        answer("search", *given, "--fix", "batch_size=32", "--out", "run")
    return folder / "run"


class Page(HTMLParser):
    """The tags of a page, each closed where it must be."""

    VOID = ("meta", "img", "input", "br", "link")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.headings: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.add(tag)
        self.ids += [values["id"]] if values.get("id") else []  # type: ignore[list-item]
        self.links += [values[name] or "" for name in ("href", "src", "xlink:href") if name in values]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "h2" in self.open:
            self.headings.append(data)


@pytest.fixture(scope="module")
def text(run: Path) -> str:
    return page(Contents.read(run))


def test_it_has_every_section_and_every_tag_is_closed(text: str) -> None:
    found = Page(text)
    assert found.open == []
    assert tuple(found.headings) == SECTIONS


def test_it_needs_no_network_and_runs_no_script(text: str) -> None:
    found = Page(text)
    assert "script" not in found.tags
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in found.links)
    assert not re.search(r"url\((?!#)", text)
    assert len(text) < 3_000_000


def test_names_on_the_page_are_unique_and_links_lead_somewhere(text: str) -> None:
    found = Page(text)
    assert len(found.ids) == len(set(found.ids))
    assert {link[1:] for link in found.links if link.startswith("#")} <= set(found.ids)


def test_names_of_strangers_are_escaped(run: Path, tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    copy = tmp_path / f"run&{hostile.replace('/', '|')}"
    shutil.copytree(run, copy)
    with Run.open(copy, write=True) as opened:
        trial = opened.trials()[0]
        opened.end_trial(trial.number, Observation.failed(f"a failure {hostile} $x_1$"))
    text = page(Contents.read(copy))
    assert "script" not in Page(text).tags
    assert "&lt;script&gt;alert(1)" in text
    assert "Failures" in Page(text).headings


def test_a_run_without_trainings_or_winners_has_a_page(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "begun"
    shutil.copytree(run, copy)
    with Run.open(copy, write=True) as opened, opened._db.transaction() as db:
        for table in ("trials", "winners", "queries", "rounds"):
            db.execute(f"DELETE FROM {table}")
    text = page(Contents.read(copy))
    assert "The search has not ended yet." in text
    assert Page(text).headings[-1] == "Repeat it"


def test_the_command_writes_it_beside_the_run(run: Path, tmp_path: Path) -> None:
    done = jointnas("report", run, "--to", tmp_path / "page.html")
    assert (done.code, done.out.strip()) == (0, str(tmp_path / "page.html"))
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_live_report_answers_this_machine_alone(run: Path) -> None:
    with LiveReport(run, 0) as live:
        thread = threading.Thread(target=live.serve)
        thread.start()
        try:
            with urllib.request.urlopen(live.address) as reply:
                assert b"http-equiv" in reply.read()
            stranger = urllib.request.Request(live.address, headers={"Host": "evil.example:80"})
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(stranger)
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(f"{live.address}etc/passwd")
        finally:
            live.close()
            thread.join()


def test_a_browser_shows_another_cost_after_a_click(run: Path, text: str, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium is installed")
    click = (
        "<script>document.getElementById('cost-1').click();"
        "const shown = n => getComputedStyle(document.getElementById('cost-body-' + n)).display;"
        "document.querySelector('summary').click();"
        "document.title = [shown(0), shown(1), document.querySelector('details').open,"
        "document.documentElement.scrollWidth <= window.innerWidth + 1].join(' ')</script></body>"
    )
    (tmp_path / "page.html").write_text(text.replace("</body>", click), encoding="utf-8")
    flags = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-sync",
    )
    command = [
        chromium,
        *flags,
        f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=420,900",
        "--dump-dom",
        f"file://{tmp_path / 'page.html'}",
    ]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "<title>none block true true</title>" in shown
