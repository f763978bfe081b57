"""How the documentation is built: `make docs`."""

import re
import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "SciML"
author = "The SciML developers"
release = version = metadata.version("sciml-core")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "generated_pages",
]
exclude_patterns = ["_build", "jupyter_execute", "examples", "results/**/*.md", "**.ipynb_checkpoints"]
html_theme = "furo"
html_title = f"SciML {release}"
html_show_copyright = False

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_timeout = 300
nb_execution_show_tb = True  # a failing cell is a warning with its traceback, and -W makes it an error
nb_merge_streams = True

default_role = "py:obj"  # `name` in a docstring is a link where it can be one, else code
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_google_docstring = False
napoleon_use_rtype = False


def as_plain_text(app, what, name, obj, options, lines):
    """Docstrings are plain text with `code`: what reStructuredText would read as markup is escaped."""
    for i, line in enumerate(lines):
        bullet, text = re.fullmatch(r"(\s*(?:[*-] )?)(.*)", line).groups()
        parts = re.split(r"(``.*?``|`[^`]*`)", text)
        parts[::2] = [re.sub(r"(\*|\||(?<=\w)_(?!\w))", r"\\\1", part) for part in parts[::2]]
        # a word may go on after `code`, as in `Figure`s
        lines[i] = bullet + re.sub(r"(`[^`]*`)(?=\w)", r"\1\\ ", "".join(parts))


def setup(app):
    # before napoleon, whose output is markup
    app.connect("autodoc-process-docstring", as_plain_text, priority=400)
