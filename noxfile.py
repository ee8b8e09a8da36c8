"""What can be asked of this checkout: `nox -l` lists it, and `nox -s tests` is what everybody runs first.

The supported interpreters are the classifiers in pyproject.toml. A missing one is skipped with a line that says so, in
CI too: which interpreters a machine has is not this project's to decide.
"""

import json
import os
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import nox
from nox.command import CommandFailed

HERE = Path(__file__).parent
PROJECT = nox.project.load_toml("pyproject.toml")
RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"
PYTHONS = nox.project.python_versions(PROJECT)
FULLY_COVERED = ["errors.py", "values/*", "protocol/*"]
OLDEST_FRAMEWORKS = ["aiogram==3.7.0", "fastapi==0.115.3"]
THRESHOLD = 95
VERSION = runpy.run_path(str(HERE / "tgmembership_async" / "version.py"))["__version__"]
DIST = HERE / "dist"
TRIAL = "import tgmembership_async as package; package.Session; from tgmembership_async.grants import Granter"
WHEEL_HAS = ["tgmembership_async/cli/demo/members.csv", "{info}/entry_points.txt", "{info}/licenses/LICENSE"]
SDIST_HAS = [".ci/run", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "SECURITY.md", "docs/conf.py"]
SDIST_HAS += ["examples/members.csv", "noxfile.py", "pyproject.toml", "tests/conftest.py", "tests/public_api.txt"]
NEITHER_HAS = ["*.pyc", "*.db", "*.env", "*.lock", "*.log", "*.orig", "*secret*.txt", "*/.coverage*", "*/.hypothesis/*"]
PARALLEL = ["-n", "4"]  # on two cores: many tests wait for a clock or a socket

nox.needs_version = ">=2025.5.1"
nox.options.sessions = ["tests", "coverage", "lint", "typing", "build"]
nox.options.default_venv_backend = "virtualenv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False


def show_pyenv() -> None:
    """Put pyenv's interpreters on the path: its shims are there already, but run only the versions selected."""
    root = os.environ.get("PYENV_ROOT")
    if root is None and (pyenv := shutil.which("pyenv")):
        root = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603 - a fixed command
    if root:
        folders = sorted(str(folder) for folder in Path(root, "versions").glob("*/bin"))
        os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), *folders])


show_pyenv()


def dependencies(group: str) -> list[str]:
    return list(nox.project.dependency_groups(PROJECT, group))


def run_tests(session: nox.Session, *pytest: str) -> None:
    """Run all tests; those that fail run once more, alone: a busy machine is no fault of theirs."""
    try:
        session.run(*pytest, *PARALLEL)
    except CommandFailed:
        session.warn("what failed above must pass now, alone")
        session.run(*pytest, "--last-failed", "--last-failed-no-failures=none")


@nox.session(python=PYTHONS if RUNNING in PYTHONS else [*PYTHONS, RUNNING])
def tests(session: nox.Session) -> None:
    """Run the tests."""
    session.install("-e", ".[all]", *dependencies("test"))
    if session.posargs:
        session.run("pytest", *session.posargs)
    else:
        run_tests(session, "pytest")


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the tests again and measure what they cover; all of what is pure must be."""
    session.install("-e", ".[all]", *dependencies("test"))
    session.run("coverage", "erase")
    run_tests(session, "coverage", "run", "-m", "pytest")
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report", f"--fail-under={THRESHOLD}")
    include = ",".join(f"*/tgmembership_async/{part}" for part in FULLY_COVERED)
    session.run("coverage", "report", f"--include={include}", "--fail-under=100")


@nox.session
def soak(session: nox.Session) -> None:
    """Run the long variants of the promises."""
    session.install("-e", ".[all]", *dependencies("test"))
    session.env["TGM_BACKENDS"] = "both"
    session.run("pytest", "-m", "soak", *session.posargs)
    session.run("pytest", "-m", "hypothesis", *session.posargs, env={"TGM_EXAMPLES": "1000"})
    session.run("pytest", *PARALLEL, *session.posargs)


@nox.session
def crash(session: nox.Session) -> None:
    """Kill a provisioning run a hundred times, and count who was granted twice and who was lost."""
    session.install("-e", ".[all]", *dependencies("test"))
    session.run("pytest", "-m", "crash", *session.posargs)


@nox.session
def crash_postgres(session: nox.Session) -> None:
    """Kill four workers on one PostgreSQL that is restarted, and count who was granted twice and who was lost."""
    session.install("-e", ".[all]", *dependencies("test"))
    session.run("pytest", "-m", "crash_postgres", *session.posargs)


@nox.session
def gateways(session: nox.Session) -> None:
    """Grant through real nginx, haproxy, varnish, squid and pgbouncer, with kills and reloads; figures as JSON."""
    session.install("-e", ".[all]", *dependencies("test"))
    figures = Path(session.create_tmp()).absolute() / "gateways.json"
    session.run("pytest", "-m", "gateways", *session.posargs, env={"TGM_GATEWAYS_FIGURES": str(figures)})
    session.log(f"the figures: {figures}")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure everything next to its peers, and draw what the README shows; `-- --quick` for a look."""
    session.install("-e", ".[all]", *dependencies("benchmark"), *dependencies("peers"))
    folder = Path(session.create_tmp()).absolute() if session.posargs else HERE / "benchmarks" / "results"
    folder.mkdir(exist_ok=True)
    for name in ("null", "structuring", "starting", "webhook", "ledger", "engine", "provision", "many", "scaling"):
        session.run("python", f"benchmarks/{name}.py", *session.posargs)
    session.run("python", "benchmarks/call.py", "--json", f"{folder}/call.json", *session.posargs)
    session.run("python", "benchmarks/plot.py", f"{folder}/call.json")


@nox.session
def httpx2(session: nox.Session) -> None:
    """Advisory: run the transport suite on the continuation of httpx, which one module of ours would have to import."""
    session.install("-e", ".[all]", "httpx2", *dependencies("test"))
    session.run("pytest", "-p", "on_httpx2", "tests/transport", *session.posargs, env={"PYTHONPATH": "tests"})


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    session.install(*dependencies("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def typing(session: nox.Session) -> None:
    """Check the types, with mypy everywhere and with pyright in the package, whose public names must all have one."""
    session.install("-e", ".[all]", "nox", *dependencies("typing"))
    session.run("mypy")
    session.run("pyright")
    session.run("pyright", "--verifytypes", "tgmembership_async", "--ignoreexternal", silent=True)


@nox.session(python=PYTHONS[0])
@nox.parametrize("releases", ["current", "oldest"])
def frameworks(session: nox.Session, releases: str) -> None:
    """Run what lives in other people's frameworks, as a wheel, on their current and their oldest supported releases."""
    pins = OLDEST_FRAMEWORKS if releases == "oldest" else []
    session.install(".[aiogram,fastapi,otel,testing]", *dependencies("test"), *pins)
    session.run("pytest", "tests/ext", "tests/examples", "tests/testing/test_plugin.py", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation, offline; a warning, a dead link or a public name without a place is an error.

    So are pages in docs/api that are out of date: `-- --write` writes them.
    """
    session.install("-e", ".[all]", *dependencies("docs"))
    folder = Path(session.create_tmp()).absolute()
    shutil.rmtree(folder / "markdown", ignore_errors=True)
    options = ["-q", "-W", "--keep-going", "-d", str(folder / "doctrees"), "docs"]
    session.run("sphinx-build", "-E", "-b", "markdown", *options, str(folder / "markdown"))
    session.run("python", "docs/api_pages.py", str(folder / "markdown"), *session.posargs)
    session.run("sphinx-build", *options, str(folder / "html"))
    session.log(f"open {folder / 'html' / 'index.html'}")


@nox.session
def changelog(session: nox.Session) -> None:
    """Show what changes/ comes to; `-- --yes` renders it into CHANGELOG.md."""
    session.install(*dependencies("changelog"))
    session.run("towncrier", "build", "--version", VERSION, *(session.posargs or ["--draft"]))


@nox.session
def build(session: nox.Session) -> None:
    """Build wheel and sdist into dist/, look into both, try the wheel on each interpreter, and list what it needs."""
    session.install(*dependencies("build"))
    shutil.rmtree(DIST, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(DIST), str(HERE))
    (wheel,), (sdist,) = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    session.run("twine", "check", "--strict", str(wheel), str(sdist))
    look_into(session, wheel, sdist)
    pythons = {version: shutil.which(f"python{version}") for version in PYTHONS}
    session.log(f"not tried, for they are not here: {[version for version, found in pythons.items() if not found]}")
    tried = [environment(session, found, version, wheel) for version, found in pythons.items() if found]
    for python in tried:
        session.run(str(python), "-I", "-W", "error", "-c", TRIAL, external=True)
    oldest, bom = tried[0], DIST / f"tgmembership_async-{VERSION}.cdx.json"
    session.run(
        *("cyclonedx-py", "environment", str(oldest), "--pyproject", str(HERE / "pyproject.toml")),
        *("--mc-type", "library", "--output-reproducible", "--output-file", str(bom)),
    )
    content = json.loads(bom.read_text(encoding="utf-8"))
    content["metadata"]["component"]["version"] = VERSION  # pyproject.toml has none: it is read from the package
    bom.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    install(session, oldest, f"{wheel}[cli]")
    session.run(str(oldest.with_name("tgmembership")), "--version", external=True)


def look_into(session: nox.Session, wheel: Path, sdist: Path) -> None:
    """Fail unless both hold what they must, and nothing that they must not."""
    with zipfile.ZipFile(wheel) as unpacked:
        in_wheel = set(unpacked.namelist())
    with tarfile.open(sdist) as unpacked:
        in_sdist = {member.name.partition("/")[2] for member in unpacked.getmembers() if member.isfile()}
    ours = (path for path in HERE.glob("tgmembership_async/**/*") if path.is_file() and path.suffix != ".pyc")
    code = {path.relative_to(HERE).as_posix() for path in ours}
    info = f"tgmembership_async-{VERSION}.dist-info"
    allowed = ("tgmembership_async/", f"{info}/")
    wrong = {
        "missing in the wheel": {*code, *(name.format(info=info) for name in WHEEL_HAS)} - in_wheel,
        "missing in the sdist": {*code, *SDIST_HAS} - in_sdist,
        "too much in the wheel": {name for name in in_wheel if not name.startswith(allowed)},
        "too much in both": {name for name in in_wheel | in_sdist if any(fnmatch(name, bad) for bad in NEITHER_HAS)},
    }
    if any(wrong.values()):
        session.error("; ".join(f"{what}: {', '.join(sorted(names))}" for what, names in wrong.items() if names))


def environment(session: nox.Session, interpreter: str, name: str, *requirements: Path | str) -> Path:
    """Make an environment that holds `requirements` and nothing else, not even pip, and return its python."""
    folder = Path(session.create_tmp()).absolute() / name
    session.run(interpreter, "-m", "venv", "--clear", "--without-pip", str(folder), external=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    install(session, python, *requirements)
    return python


def install(session: nox.Session, python: Path, *requirements: Path | str) -> None:
    """Install `requirements` for an interpreter that has no pip."""
    session.run("python", "-m", "pip", "--python", str(python), "install", "-q", *map(str, requirements))


@nox.session
def demo(session: nox.Session) -> None:
    """Grant access to a thousand members on a service full of faults, and count what came of it."""
    session.install(".[cli,testing]")
    session.run("tgmembership", "demo", *session.posargs)
