"""The configuration of Sphinx; `make docs` builds the pages into build/docs.

The pages are Markdown that also reads well on GitHub, so they use GitHub's forms. Two of these need
a translation for Sphinx: links to files outside docs/, and pictures with a dark variant.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

from fastrnn import __version__  # noqa: E402 (the tree that holds these pages)

REPOSITORY = "https://github.com/fastrnn/fastrnn"
BRANCH = "main"

project = "fastrnn"
author = "The fastrnn authors"
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
default_role = "py:obj"
highlight_language = "none"
myst_heading_anchors = 4
suppress_warnings = ["config.cache"]

add_module_names = False
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = f"fastrnn {release}"
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["fastrnn.css"]
html_theme_options = {
    "source_repository": REPOSITORY,
    "source_branch": BRANCH,
    "source_directory": "docs/",
}

_LINK = re.compile(r"(?<=\]\()(?P<target>[^)#\s]+)(?=[)#])")
_RESULT = re.compile(r"(\w+): (.+)")
_PICTURE = re.compile(
    r"<picture>\s*<source[^>]*srcset=\"(?P<dark>[^\"]+)\"[^>]*>\s*"
    r"<img\s+src=\"(?P<light>[^\"]+)\"\s+alt=\"(?P<alt>[^\"]*)\"[^>]*>\s*</picture>"
)


def repository_url(target: str, page: Path) -> str:
    """The target of a link on a page, as a URL of the repository if it is a file outside docs/."""
    if "://" in target:
        return target
    path = Path(os.path.normpath(page.parent / target))
    if path.is_relative_to(DOCS) or not path.is_relative_to(ROOT):
        return target
    kind = "tree" if path.is_dir() else "blob"
    return f"{REPOSITORY}/{kind}/{BRANCH}/{path.relative_to(ROOT).as_posix()}"


def themed_images(match: re.Match[str]) -> str:
    """A <picture> as two images, of which furo shows the one that fits the reader's theme."""
    images = [
        f"```{{image}} {match[source]}\n:alt: {match['alt']}\n:class: only-{source}\n```\n"
        for source in ("light", "dark")
    ]
    return "\n" + "\n".join(images)


def translate(app: Sphinx, docname: str, source: list[str]) -> None:
    """Rewrite a page from GitHub's Markdown to that of MyST."""
    page = Path(app.env.doc2path(docname))
    text = _LINK.sub(lambda match: repository_url(match["target"], page), source[0])
    source[0] = _PICTURE.sub(themed_images, text)


def prepare_docstring(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Prepare the forms that napoleon and reStructuredText misread, before they read them.

    The comment of an attribute begins with a colon, so that a colon within it does not end a type.
    Several results, a line ``name: text`` for each, become a list.
    """
    if what in ("attribute", "data") and lines:
        lines[0] = f": {lines[0]}"
    if "Returns:" not in lines:
        return
    start = lines.index("Returns:") + 1
    end = start
    while end < len(lines) and (not lines[end] or lines[end].startswith(" ")):
        end += 1
    section = [line[4:] for line in lines[start:end] if line]
    results = [_RESULT.fullmatch(line) for line in section]
    if not results[0]:
        return
    items = [
        f"   * **{result[1]}** -- {result[2]}" if result else f"     {line.strip()}"
        for line, result in zip(section, results, strict=True)
    ]
    lines[start - 1 : end] = [":returns:", *items, ""]


def setup(app: Sphinx) -> None:
    app.connect("source-read", translate)
    app.connect("autodoc-process-docstring", prepare_docstring, priority=400)  # napoleon has 500
