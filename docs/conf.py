"""How the documentation is built: `make docs`."""

import inspect
import re
import sys
from importlib import metadata
from pathlib import Path

from sphinx.util.inspect import stringify_signature

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


def true_signature(app, what, name, obj, options, signature, returns):
    """The arguments of a class that has both `__new__(*args)` and `__init__` are those of the latter."""
    if what == "class" and (signature or "").startswith("(*"):
        found = inspect.signature(obj.__init__)
        found = found.replace(parameters=list(found.parameters.values())[1:], return_annotation=found.empty)
        return stringify_signature(found, unqualified_typehints=True), returns
    return None


def setup(app):
    app.connect("autodoc-process-signature", true_signature)
    # before napoleon, whose output is markup
    app.connect("autodoc-process-docstring", as_plain_text, priority=400)
