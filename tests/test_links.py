"""No link within the course leads nowhere: in its pages and notebooks, and in the web site where its tool is installed."""

import re
import subprocess
import sys

import pytest

from shared.course.runtime import ROOT
from tests import links

TOOL = ROOT / ".venv-site" / ("Scripts" if sys.platform == "win32" else "bin") / "python"


@pytest.mark.parametrize("path", links.sources(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path):
    assert links.broken_in(path) == []


def test_the_sources_are_all_there():
    names = {path.relative_to(ROOT).as_posix() for path in links.sources()}
    assert {"README.md", "LECTURERS.md", "00_start_here.ipynb", "task-1/README.md"} <= names
    assert {f"task-1/ag-news/{name}" for name in ("report.md", "ag_news.ipynb")} <= names


PAGE = """# One page

## What is *new*: 16 bits & `fp16`?
## Twice
## Twice

```
[code](is-no-link.md)
```

`[nor](is-this.md)` <a id="mark"></a> [away](https://example.org/x.md#y)
"""


@pytest.mark.parametrize(
    ("link", "known"),
    [
        ("#what-is-new-16-bits--fp16", True), ("#twice-1", True), ("#mark", True), ("#twice-2", False), ("other.md", True),
        ("other.md#there", True), ("other.md#here", False), ("missing.md", False), ("../outside.md", False), ("folder/", True),
        ("a%20b.png", True), ("folder/#x", False),
    ],
)  # fmt: skip
def test_a_link_is_followed_as_github_does(link, known, tmp_path):
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (root / "other.md").write_text("# There\n", encoding="utf8")
    (root / "a b.png").touch()
    (tmp_path / "outside.md").touch()
    page = root / "page.md"
    page.write_text(f"{PAGE}\n[here]({link}) ![it]({link})", encoding="utf8")
    assert links.broken_in(page, root) == ([] if known else [link, link])


def test_a_link_of_the_site_to_no_file_and_to_no_id_is_found(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.html").write_text('<a id="x" href="#x"></a><a href="sub/b.html#y"></a><a href="sub/b.html#z"></a><img src="c.png">')
    (tmp_path / "sub" / "b.html").write_text('<p id="y"><a href="../a.html#x"></a><a href="https://a.org/q"></a><a href="#"></a>')
    assert links.broken_site(tmp_path) == ["a.html: sub/b.html#z", "a.html: c.png"]


# ---------------------------------------------------------------- the built site


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if not TOOL.exists():
        pytest.skip("the site's tool is not installed: make site installs it")
    folder = tmp_path_factory.mktemp("site")
    command = [str(TOOL), "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-c", "site", ".", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr[-3_000:]
    return folder


@pytest.mark.slow
def test_no_link_of_the_site_leads_nowhere(site):
    assert links.broken_site(site) == []


@pytest.mark.slow
def test_the_site_has_every_page_search_and_a_way_to_the_next(site):
    for path in links.sources():
        page = (site / path.relative_to(ROOT)).with_suffix(".html")
        text = page.read_text(encoding="utf8")
        assert '<meta name="viewport"' in text
        assert path.name == "README.id.md" or 'title="next page"' in text
        assert len(re.findall(r'class="[^"]*\bprimary-toggle\b', text)) == 1  # the theme's script takes the first of a page
    assert (site / "index.html").read_bytes() == (site / "README.html").read_bytes()
    assert (site / "search.html").is_file() and (site / "searchindex.js").is_file()


@pytest.mark.slow
def test_the_site_shows_the_committed_outputs(site):
    """They come from the notebooks: a build that executed anything would need a model, and would show profile and seconds of its own."""
    text = (site / "00_start_here.html").read_text(encoding="utf8")
    assert "profile laptop on cpu" in text and "49,152 logits" in text
