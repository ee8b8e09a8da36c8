"""The settings of Sphinx: pages from Markdown and docstrings, offline, with every warning an error (`nox -s docs`)."""

import inspect
import re
import shutil
from enum import Enum
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Final

from attrs import NOTHING, has
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

from tgmembership_async import __version__, ext

HERE: Final = Path(__file__).parent
PUBLIC: Final = (
    "tgmembership_async",
    "tgmembership_async.access",
    "tgmembership_async.fulfillment",
    "tgmembership_async.grants",
    "tgmembership_async.project",
    "tgmembership_async.testing",
    "tgmembership_async.webhooks",
    *(f"tgmembership_async.ext.{module.name}" for module in iter_modules(ext.__path__)),
)

project = "tgmembership-async"
author = "the authors of tgmembership-async"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton", "sphinx_markdown_builder"]
exclude_patterns = ["_build", "api"]
smartquotes = False  # a default of "" is no dash and no curly quote
nitpicky = True
nitpick_ignore_regex = [
    ("py:obj", ".*"),  # the default role of docstrings: a link where there is such a name, and else just code
    ("py:.*", r"(?!tgmembership_async).*"),  # other people's names: their inventories are not asked for
    ("py:class", r".*\.[A-Z]"),  # type variables
    ("py:class", r".*\.claiming\.Claiming"),  # handed from a Granter to its Run
    ("py:class", r".*\.fault_effects\.Service"),  # what FakeService is to its transports, and nobody else's business
]
default_role = "py:obj"
maximum_signature_line_length = 88
python_use_unqualified_type_names = True

autodoc_class_signature = "mixed"
autodoc_default_options = {"members": True, "no-value": True}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
myst_links_external_new_tab = False

markdown_anchor_signatures = True

html_theme = "furo"
html_title = project
html_extra_path = ["llms.txt"]
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}

_logger: Final = logging.getLogger(__name__)
_INDENTED: Final = re.compile(r" {4}")
_PLURAL: Final = re.compile(r"(?<=\w)`(?=s\b)")
_DEBRIS: Final = re.compile(r"<|attr_dict|Factory\(|NOTHING| at 0x")
_BUILT_IN: Final = {inspect.cleandoc(kind.__doc__ or "").partition("\n")[0] for kind in (str, int, float, tuple, dict)}
_LONGEST_DEFAULT: Final = 80
_MADE_BY_US: Final = {"tgmembership_async.grants.Members", "tgmembership_async.grants.Run"}
_SAYS_NOTHING: Final = {"(*args, **kwargs)", "(value)"}  # of a Protocol, and of an Enum


class Default:
    """A default as a reader would write it, and `...` for what is long or made anew for each object."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __repr__(self) -> str:
        text = self._text(self.value)
        return text if len(text) <= _LONGEST_DEFAULT and "<" not in text else "..."

    def _text(self, value: Any) -> str:
        if value is NOTHING:  # of attrs: a factory makes it
            return "..."
        if isinstance(value, Enum):
            return f"{type(value).__name__}.{value.name}"
        if isinstance(value, frozenset) and value:
            return f"{{{', '.join(sorted(map(self._text, value)))}}}"
        if callable(value):
            of_library = value.__module__ or type(value.__self__).__module__
            return value.__name__ if of_library.startswith("tgmembership") else f"{of_library}.{value.__name__}"
        if has(type(value)) and value == _plain(type(value)):
            return f"{type(value).__name__}()"
        return repr(value)


def _plain(kind: type) -> object:
    try:
        return kind()
    except TypeError:
        return None  # it has arguments that must be given


def as_rst(_app: Sphinx, _what: str, _name: str, _obj: object, _options: object, lines: list[str]) -> None:
    """Turn what our docstrings take over from Markdown into what reStructuredText wants.

    That is: a plural behind a backtick needs an escaped space, and an indented example a `::` before it.
    """
    lines[:] = [_PLURAL.sub(r"`\\ ", line) for line in lines]
    for number in range(len(lines) - 1, 1, -1):
        before = next((line for line in reversed(lines[:number]) if line), "")
        if _INDENTED.match(lines[number]) and not lines[number - 1] and not _INDENTED.match(before):
            lines[number:number] = ["::", ""]


def show_defaults(_app: Sphinx, obj: Any, _is_bound: bool) -> None:  # noqa: FBT001 - Sphinx calls it
    """Have a signature show its defaults as `Default` does, also that of an `__init__` that attrs has made."""
    obj = getattr(obj, "__func__", obj)  # of a class method
    try:
        signature = inspect.signature(obj)
        parameters = [
            one if one.default is one.empty else one.replace(default=Default(one.default))
            for one in signature.parameters.values()
        ]
        obj.__signature__ = signature.replace(parameters=parameters)
    except (AttributeError, TypeError, ValueError):
        return  # a method descriptor, say, has no signature that could be set


def as_called(
    _app: Sphinx, what: str, name: str, _obj: object, _options: object, signature: str | None, returns: str | None
) -> tuple[str, str | None] | None:
    """Show no parameters of errors and others that nobody but us makes, and none that say nothing."""
    if not signature:
        return None
    hidden = what == "exception" or name in _MADE_BY_US or (what == "class" and signature in _SAYS_NOTHING)
    return ("", None) if hidden else (signature, returns)


def check_debris(_app: Sphinx, doctree: nodes.document) -> None:
    """Warn, and so fail, for a default that no reader would write, and for the docstring of a built-in type."""
    for parameter in doctree.findall(addnodes.desc_parameter):
        _, _, default = parameter.astext().partition("=")
        if _DEBRIS.search(default):
            _logger.warning("this is no default to show: %.80s", parameter.astext(), location=parameter)
    for paragraph in doctree.findall(nodes.paragraph):
        if paragraph.astext().partition("\n")[0] in _BUILT_IN:
            _logger.warning("a built-in type's docstring: %.60s", paragraph.astext(), location=paragraph)


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
            if not any(f"{home}.{name}" in documented for home in PUBLIC):  # some are in two packages, and told of once
                _logger.warning("%s.%s is public, and no page documents it", module, name)


def public_names(module: str) -> list[str]:
    """Return what `__all__` lists or, where there is none, the classes and functions that the module defines."""
    found = import_module(module)
    own = [name for name, value in vars(found).items() if getattr(value, "__module__", "") == module]
    return list(getattr(found, "__all__", [name for name in own if not name.startswith("_")]))


def simplify_for_markdown(app: Sphinx, doctree: nodes.document, _name: str) -> None:
    """Replace what the Markdown builder does not know, the explained `*` between parameters, and leave out comments."""
    if app.builder.name == "markdown":
        for comment in list(doctree.findall(nodes.comment)):
            comment.parent.remove(comment)
        for explained in list(doctree.findall(nodes.abbreviation)):
            explained.replace_self(nodes.Text(explained.astext()))


def copy_markdown(app: Sphinx, error: Exception | None) -> None:
    """Put each page beside it as Markdown, for readers who prefer that; `llms.txt` points to these."""
    if error is None and app.builder.name == "html":
        for name in app.env.found_docs:
            target = Path(app.outdir, f"{name}.md")
            target.parent.mkdir(parents=True, exist_ok=True)
            generated = HERE / "api" / Path(name).with_suffix(".md").name
            is_generated = name.startswith("reference/") and generated.exists()
            shutil.copyfile(generated if is_generated else HERE / f"{name}.md", target)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the functions above."""
    app.connect("autodoc-process-docstring", as_rst)
    app.connect("autodoc-before-process-signature", show_defaults)
    app.connect("autodoc-process-signature", as_called)
    app.connect("doctree-read", check_tables)
    app.connect("doctree-read", check_debris)
    app.connect("doctree-resolved", simplify_for_markdown)
    app.connect("env-check-consistency", check_nothing_is_missing)
    app.connect("build-finished", copy_markdown)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
