import sys
from pathlib import Path

import cutaway

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "cutaway"
author = "the cutaway contributors"
copyright = author
version = release = cutaway.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.mathjax",
    "sphinxcontrib.bibtex",
    "methods",  # _ext/methods.py: pages for every method, command and error, from the program itself
]
exclude_patterns = ["_build", "methods/*"]  # methods/NAME.md is included into the generated page of that method
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
bibtex_bibfiles = ["../src/cutaway/core/references.bib"]
bibtex_default_style = "plain"
bibtex_reference_style = "author_year"

html_theme = "furo"
html_title = f"cutaway {version}"
html_static_path: list[str] = []
html_show_sourcelink = False
