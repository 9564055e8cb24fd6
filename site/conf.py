"""How the pages and notebooks of the course become a web site: `make site`. Nothing is executed; outputs are those that are committed."""

import json
import re
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
START = "00_start_here"

project = "Fine-tune transformers on real tasks"
html_title = "Fine-tune transformers"
extensions = ["myst_nb", "sphinxcontrib.mermaid"]
root_doc = "README"
include_patterns = ["*.md", f"{START}.ipynb", "task-*/README.md", "task-*/*/*.md", "task-*/*/*.ipynb"]
exclude_patterns = [".*", "_site", "outputs", "student", "shared", "tests", "site", "**/.ipynb_checkpoints"]

nb_execution_mode = "off"
nb_merge_streams = True
myst_heading_anchors = 4  # so that README.md#afterwards and 00_start_here.ipynb#learning-rate work as on GitHub
myst_fence_as_directive = ["mermaid"]
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type"]

html_theme = "sphinx_book_theme"
html_theme_options = {"show_toc_level": 2, "use_download_button": False, "use_fullscreen_button": False, "footer_content_items": []}
templates_path, html_static_path = ["templates"], ["static"]
html_css_files = ["course.css"]
html_copy_source = False
mermaid_init_config = {"startOnLoad": False, "flowchart": {"useMaxWidth": False}, "themeVariables": {"fontSize": "14px"}}  # see course.css
mermaid_fullscreen = False


def contents() -> str:
    """The table of contents, which also decides what comes next: lessons in the order of 00_start_here, each with its report."""
    cells = json.loads((ROOT / f"{START}.ipynb").read_text(encoding="utf8"))["cells"]
    text = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    lessons = re.findall(r"^\| \d+ \| \[([^]]+)\]\((task-\d)/([\w-]+)/(\w+)\.ipynb\)", text, re.MULTILINE)
    parts = [_tree("Begin", [("Start here", START)])]
    for page in sorted(ROOT.glob("task-*/README.md")):
        task, heading = page.parent.name, page.read_text(encoding="utf8").splitlines()[0].lstrip("# ")
        entries = [("Overview", f"{task}/README")]
        for title, where, folder, name in lessons:
            if where == task:
                entries += [(title, f"{task}/{folder}/{name}"), (f"{title}: report", f"{task}/{folder}/report")]
        for notebook in sorted(page.parent.glob("lab-*/*.ipynb")):
            title = notebook.parent.name.replace("lab-", "Lab: ").replace("-", " ")
            entries.append((title, notebook.relative_to(ROOT).with_suffix("").as_posix()))
            if (notebook.parent / "report.md").is_file():
                entries.append((f"{title}: report", notebook.with_name("report").relative_to(ROOT).as_posix()))
        parts.append(_tree(heading, entries))
    more = {"MACHINES": "Machines", "LECTURERS": "For lecturers", "CONTRIBUTING": "Contributing", "SECURITY": "Security"}
    more["README.id"] = "Bahasa Indonesia"
    return "\n".join([*parts, _tree("More", [(title, name) for name, title in more.items()])])


def _tree(caption: str, entries: list[tuple[str, str]]) -> str:
    lines = "\n".join(f"{title} <{name}>" for title, name in entries)
    return f"\n```{{toctree}}\n:caption: {caption}\n:hidden:\n\n{lines}\n```\n"


def prepare(app, name: str, source: list[str]) -> None:
    """Add the contents to the first page, lead links to folders on, draw diagrams from top to bottom, which fits a phone; fold cells."""
    here = Path(app.env.doc2path(name))
    if here.suffix == ".md":
        text = re.sub(r"\]\(([\w./-]+)/\)", lambda link: f"]({_in_folder(here.parent / link[1], link[1])})", source[0])
        text = re.sub(r"^(\s*(?:flowchart|graph|direction)) LR$", r"\1 TB", text, flags=re.MULTILINE)
        # a report is short and its tables are wide: it has no second column of contents
        alone = "---\nhtml_theme.sidebar_secondary.remove: true\n---\n\n" if here.name == "report.md" else ""
        source[0] = alone + text + (contents() if name == root_doc else "")
    else:
        notebook = json.loads(source[0])
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                _fold(cell)
        source[0] = json.dumps(notebook)


def _fold(cell: dict) -> None:
    """Fold the setup cell and solutions, under their titles; drop the mark of the tests from the others."""
    text, about = "".join(cell["source"]), cell["metadata"]
    if about.get("jupyter", {}).get("source_hidden"):
        title, _, text = text.removeprefix("# @title ").partition("\n")
        about["tags"] = ["hide-cell" if "solution" in about.get("tags", []) else "hide-input"]
        about["mystnb"] = {"code_prompt_show": title, "code_prompt_hide": title}
    cell["source"] = text.removeprefix("# NBVAL_CHECK_OUTPUT\n")


def _in_folder(folder: Path, link: str) -> str:
    """What a link to a folder leads to on the site, which lists none: its notebook."""
    return f"{link}/{next((path.name for path in folder.glob('*.ipynb')), '')}"


def first_page(app, error) -> None:
    """The address of the site without a file name leads to the README."""
    if error is None:
        shutil.copyfile(Path(app.outdir, "README.html"), Path(app.outdir, "index.html"))


def setup(app) -> dict[str, bool]:
    app.connect("source-read", prepare)
    app.connect("build-finished", first_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
