"""The documentation says what the code does."""

import re
from pathlib import Path

from sfu.calls.table import diagram
from sfu.signaling.messages import REQUESTS

ROOT = Path(__file__).parents[2]


def test_the_diagram_of_calls_is_made_from_the_tables():
    assert diagram() in (ROOT / "docs" / "calls.md").read_text()


def test_every_request_stands_in_the_protocol_page():
    page = (ROOT / "docs" / "protocol.md").read_text()
    assert [name for name in REQUESTS if f"`{name}" not in page and name not in page] == []


def test_links_between_pages_lead_somewhere():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_no_source_file_has_outgrown_its_ceiling():
    """A file past 500 lines does more than one thing (CONTRIBUTING)."""
    files = [*ROOT.glob("sfu/**/*.py"), *ROOT.glob("web/*.js")]
    assert [str(f) for f in files if len(f.read_text().splitlines()) > 500] == []
