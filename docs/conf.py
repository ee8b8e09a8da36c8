"""How Sphinx builds these pages: from Markdown and docstrings, offline, with every warning an error (`nox -s docs`)."""

import re
import shutil
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Final

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

from tgmembership_async import __version__, ext
from tgmembership_async.settings import BASE_URL

HERE: Final = Path(__file__).parent
PUBLIC: Final = (
    "tgmembership_async",
    "tgmembership_async.access",
    "tgmembership_async.fulfillment",
    "tgmembership_async.grants",
    "tgmembership_async.testing",
    "tgmembership_async.webhooks",
    *(f"tgmembership_async.ext.{module.name}" for module in iter_modules(ext.__path__)),
)

project = "tgmembership-async"
author = "the authors of tgmembership-async"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["_build"]
nitpicky = True
nitpick_ignore_regex = [
    ("py:obj", ".*"),  # the default role of docstrings: a link where there is such a name, and else just code
    ("py:.*", r"(?!tgmembership_async).*"),  # other people's names: their inventories are not asked for
    ("py:class", r".*\.[A-Z]"),  # type variables
    ("py:class", r".*\.fault_plan\.Service"),  # what FakeService is to its transports, and nobody else's business
]
default_role = "py:obj"
maximum_signature_line_length = 88
python_use_unqualified_type_names = True

autodoc_class_signature = "mixed"
autodoc_default_options = {"members": True, "no-value": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
myst_links_external_new_tab = False

html_theme = "furo"
html_title = project
html_extra_path = ["llms.txt"]
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}

_DEFAULTS: Final = {"settings.BASE_URL": repr(BASE_URL), "_DEFAULT_POLICY": "RetryPolicy()"}
_logger: Final = logging.getLogger(__name__)
_INDENTED: Final = re.compile(r" {4}")
_PLURAL: Final = re.compile(r"(?<=\w)`(?=s\b)")


def as_rst(_app: Sphinx, _what: str, _name: str, _obj: object, _options: object, lines: list[str]) -> None:
    """Turn what our docstrings take over from Markdown into what reStructuredText wants.

    That is: a plural behind a backtick needs an escaped space, and an indented example a `::` before it.
    """
    lines[:] = [_PLURAL.sub(r"`\\ ", line) for line in lines]
    for number in range(len(lines) - 1, 1, -1):
        before = next((line for line in reversed(lines[:number]) if line), "")
        if _INDENTED.match(lines[number]) and not lines[number - 1] and not _INDENTED.match(before):
            lines[number:number] = ["::", ""]


def as_called(
    _app: Sphinx, what: str, _name: str, _obj: object, _options: object, signature: str | None, returns: str | None
) -> tuple[str, str | None] | None:
    """Show no parameters of errors, which nobody but us makes, and defaults by what they are."""
    if not signature:
        return None
    for name, meaning in _DEFAULTS.items():
        signature = signature.replace(name, meaning)
    return ("", None) if what == "exception" else (signature, returns)


def check_tables(_app: Sphinx, doctree: nodes.document) -> None:
    """Warn, and so fail, for a table that is read as a paragraph, as one with a wrong second row is."""
    for paragraph in doctree.findall(nodes.paragraph):
        if paragraph.astext().startswith("|"):
            _logger.warning("this was meant to be a table: %.60s", paragraph.astext(), location=paragraph)


def check_nothing_is_missing(_app: Sphinx, env: BuildEnvironment) -> None:
    """Warn, and so fail, for each public name that no page of the reference documents."""
    documented = env.domains["py"].data["objects"]
    for module in PUBLIC:
        for name in public_names(module):
            if f"{module}.{name}" not in documented:
                _logger.warning("%s.%s is public, and no page documents it", module, name)


def public_names(module: str) -> list[str]:
    """Return what `__all__` lists or, where there is none, the classes and functions that the module defines."""
    found = import_module(module)
    own = [name for name, value in vars(found).items() if getattr(value, "__module__", "") == module]
    return list(getattr(found, "__all__", [name for name in own if not name.startswith("_")]))


def copy_markdown(app: Sphinx, error: Exception | None) -> None:
    """Put each page's source beside it, for readers who prefer Markdown; `llms.txt` points to these."""
    if error is None and app.builder.name == "html":
        for name in app.env.found_docs:
            target = Path(app.outdir, f"{name}.md")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(HERE / f"{name}.md", target)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the functions above."""
    app.connect("autodoc-process-docstring", as_rst)
    app.connect("autodoc-process-signature", as_called)
    app.connect("doctree-read", check_tables)
    app.connect("env-check-consistency", check_nothing_is_missing)
    app.connect("build-finished", copy_markdown)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
