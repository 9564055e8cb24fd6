"""Links within the course that lead nowhere, in its pages and notebooks, or in the web site made from them.

    python tests/links.py           the sources
    python tests/links.py _site/html     the built site

It needs nothing but Python. Addresses of other hosts are not asked.
"""

import json
import re
import sys
from collections import Counter
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)|^\s*\[[^]]+\]:\s*(\S+)|(?:href|src)=\"([^\"]+)\"", re.MULTILINE)


def sources(root: Path = ROOT) -> list[Path]:
    """The pages and notebooks that readers see."""
    patterns = ("*.md", "*.ipynb", "task-*/*.md", "task-*/*/*.md", "task-*/*/*.ipynb")
    return sorted(path for pattern in patterns for path in root.glob(pattern))


@cache
def prose(path: Path) -> str:
    """The Markdown of a page or notebook, without blocks of code and code in a line."""
    text = path.read_text(encoding="utf8")
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells)
    text = re.sub(r"^( *)(```+|~~~+).*?^\1\2", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(`+)[^`\n]+\1", lambda code: code[0].replace("](", "] ("), text)  # a heading keeps its code


@cache
def anchors(path: Path) -> frozenset[str]:
    """The names that a page's headings have after #, as GitHub makes them, and those written as id="..."."""
    text, seen, found = prose(path), Counter(), set()
    for heading in re.findall(r"^#{1,6}\s+(.+?)\s*#*$", text, re.MULTILINE):
        shown = re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown.lower().strip()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return frozenset(found | set(re.findall(r"<\w+[^>]*\b(?:id|name)=\"([^\"]+)\"", text)))


def broken_in(path: Path, root: Path = ROOT) -> list[str]:
    """The links of a page or notebook that lead to no file, out of the course, or to no heading of a page."""
    bad = []
    for groups in LINK.findall(prose(path)):
        link = next(filter(None, groups))
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path.resolve()
        known = target.is_relative_to(root.resolve()) and target.exists()
        if not known or (parts.fragment and (target.suffix not in (".md", ".ipynb") or unquote(parts.fragment) not in anchors(target))):
            bad.append(link)
    return bad


class Page(HTMLParser):
    """The ids of an HTML page and what it links to."""

    def __init__(self, text: str):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "id" or (tag == "a" and name == "name"):
                self.ids.add(value)
            elif name in ("href", "src") and value:
                self.links.append(value)


def broken_site(folder: Path) -> list[str]:
    """`page: link` for every link of the built site that leads to no file of it or to no id of a page."""
    found = [path for path in sorted(folder.rglob("*.html")) if "_static" not in path.parts]  # which has the theme's templates, too
    pages = {path.resolve(): Page(path.read_text(encoding="utf8")) for path in found}
    bad = []
    for path, page in pages.items():
        for link in dict.fromkeys(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link == "#":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids):
                bad.append(f"{path.relative_to(folder.resolve()).as_posix()}: {link}")
    return bad


def main(arguments: list[str]) -> int:
    if arguments:
        bad = broken_site(Path(arguments[0]))
    else:
        bad = [f"{path.relative_to(ROOT).as_posix()}: {link}" for path in sources() for link in broken_in(path)]
    for line in bad:
        print(f"leads nowhere: {line}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
