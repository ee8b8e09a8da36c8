"""Sessions for tests, checks, benchmarks, docs and builds: `nox -l` lists them, `nox -s tests` runs the tests.

The supported interpreters are the classifiers in pyproject.toml. A missing interpreter is skipped with a log line, in
CI too.
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
SMOKE_TEST = "import tgmembership_async as package; package.Session; from tgmembership_async.grants import Granter"
WHEEL_HAS = ["tgmembership_async/cli/demo/members.csv", "tgmembership_async/cli/mcp/service.md"]
WHEEL_HAS += ["{info}/entry_points.txt", "{info}/licenses/LICENSE"]
SDIST_HAS = [".ci/run", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "SECURITY.md", "docs/conf.py"]
SDIST_HAS += ["examples/members.csv", "noxfile.py", "pyproject.toml", "tests/conftest.py", "tests/public_api.txt"]
NEITHER_HAS = ["*.pyc", "*.db", "*.env", "*.lock", "*.log", "*.orig", "*secret*.txt", "*/.coverage*", "*/.hypothesis/*"]
PARALLEL = ["-n", "4"]  # also on two cores: many tests wait for timers or sockets
BOTH = {"TGM_BACKENDS": "both"}  # each test on asyncio and on trio; `nox -s tests` divides them among interpreters

nox.needs_version = ">=2025.5.1"
nox.options.sessions = ["tests", "coverage", "lint", "typing", "build"]
nox.options.default_venv_backend = "virtualenv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False


def add_pyenv_to_path() -> None:
    """Add pyenv's interpreters to PATH: pyenv's shims run only the versions selected."""
    root = os.environ.get("PYENV_ROOT")
    if root is None and (pyenv := shutil.which("pyenv")):
        root = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603 - a fixed command
    if root:
        folders = sorted(str(folder) for folder in Path(root, "versions").glob("*/bin"))
        os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), *folders])


add_pyenv_to_path()


def dependencies(group: str) -> list[str]:
    return list(nox.project.dependency_groups(PROJECT, group))


def results(session: nox.Session) -> Path:
    """Return the folder of the figures that the docs are rendered from, or another one if the run is a partial one."""
    folder = Path(session.create_tmp()).absolute() if session.posargs else HERE / "benchmarks" / "results"
    folder.mkdir(exist_ok=True)
    return folder


def run_long_suite(session: nox.Session, marker: str) -> None:
    """Run the tests with this marker; a complete run writes its figures and renders them into the docs."""
    folder = results(session)
    session.run("pytest", "-m", marker, *session.posargs, env={"TGM_FIGURES": str(folder), **BOTH})
    session.run("python", "benchmarks/figures_page.py")


@nox.session(python=PYTHONS if RUNNING in PYTHONS else [*PYTHONS, RUNNING])
def tests(session: nox.Session) -> None:
    """Run the tests; on the oldest interpreter they are measured, for `nox -s coverage`."""
    session.install("-e", ".[all]", *dependencies("test"))
    if session.posargs or session.python != PYTHONS[0]:
        session.run("pytest", *(session.posargs or PARALLEL))
    else:
        session.run("coverage", "erase")
        session.run("coverage", "run", "-m", "pytest", *PARALLEL)
        session.run("coverage", "combine", "--quiet")


@nox.session
def coverage(session: nox.Session) -> None:
    """Report what the tests covered on the oldest interpreter; the pure modules must be covered completely."""
    session.install("coverage")
    if not (HERE / ".coverage").exists():
        session.error(f"nothing was measured: run `nox -s tests-{PYTHONS[0]}` first")
    session.run("coverage", "report", f"--fail-under={THRESHOLD}")
    include = ",".join(f"*/tgmembership_async/{part}" for part in FULLY_COVERED)
    session.run("coverage", "report", f"--include={include}", "--fail-under=100")


@nox.session
def soak(session: nox.Session) -> None:
    """Run the tests of the promises with more cases and for longer."""
    session.install("-e", ".[all]", *dependencies("test"))
    session.env.update(BOTH)
    session.run("pytest", "-m", "soak", *session.posargs)
    session.run("pytest", "-m", "hypothesis", *session.posargs, env={"TGM_EXAMPLES": "1000"})
    session.run("pytest", *PARALLEL, *session.posargs)


@nox.session
def crash(session: nox.Session) -> None:
    """Kill a provisioning run and a Fulfillment, and count members granted twice, payments lost and second links."""
    session.install("-e", ".[all]", *dependencies("test"))
    run_long_suite(session, "crash")


@nox.session
def crash_bot(session: nox.Session) -> None:
    """Kill the example bot a hundred times, and count the payments that ended neither as a link nor as a question."""
    session.install("-e", ".[all]", *dependencies("test"))
    run_long_suite(session, "crash_bot")


@nox.session
def crash_postgres(session: nox.Session) -> None:
    """Kill four workers on a PostgreSQL server that is restarted, and count members granted twice and members lost."""
    session.install("-e", ".[all]", *dependencies("test"))
    run_long_suite(session, "crash_postgres")


@nox.session
def gateways(session: nox.Session) -> None:
    """Send grants through real nginx, haproxy, varnish, squid and pgbouncer, with kills and reloads."""
    session.install("-e", ".[all]", *dependencies("test"))
    run_long_suite(session, "gateways")


@nox.session
def bench(session: nox.Session) -> None:
    """Run the benchmarks of this package and its peers, and plot the README's figure; `-- --quick` for a short run."""
    session.install("-e", ".[all]", *dependencies("benchmark"), *dependencies("peers"))
    folder = results(session)
    bulk = ("ledger", "engine", "provision", "million", "reconcile", "report")
    for name in ("null", "parsers", "structuring", "starting", "webhook", *bulk, "call"):
        session.run("python", f"benchmarks/{name}.py", "--json", f"{folder}/{name}.json", *session.posargs)
    for name in ("many", "scaling"):
        write = () if session.posargs else ("--write", "docs/scaling.md")
        session.run("python", f"benchmarks/{name}.py", *write, *session.posargs)
    session.run("python", "benchmarks/plot.py", f"{folder}/call.json")
    session.run("python", "benchmarks/figures_page.py")


@nox.session(python=PYTHONS[0])
def oldest(session: nox.Session) -> None:
    """Run the tests on the oldest supported version of each dependency. Not part of CI."""
    session.install("uv")
    session.run("uv", "pip", "install", "--resolution", "lowest-direct", "-e", ".[all]")
    session.install(*dependencies("test"))
    session.run("pytest", *(session.posargs or PARALLEL), env=BOTH)


@nox.session
def newest(session: nox.Session) -> None:
    """Run the tests on the newest versions of all dependencies, also on pre-releases. Failures are only reported."""
    session.install("--upgrade", "--upgrade-strategy", "eager", "--pre", "-e", ".[all]", *dependencies("test"))
    try:
        session.run("pytest", *(session.posargs or PARALLEL), env=BOTH)
    except CommandFailed:
        session.warn("the tests fail on these versions; they are not required to pass")
        session.run("python", "-m", "pip", "list")


@nox.session
def httpx2(session: nox.Session) -> None:
    """Run the transport tests on httpx2, the successor of httpx. Advisory: not part of CI."""
    session.install("-e", ".[all]", "httpx2", *dependencies("test"))
    env = {"PYTHONPATH": "tests", **BOTH}
    session.run("pytest", "-p", "on_httpx2", "tests/transport", *session.posargs, env=env)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    session.install(*dependencies("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def typing(session: nox.Session) -> None:
    """Check the types with mypy and pyright, also of the tutorial's programs, and that every public name has a type."""
    session.install("-e", ".[all]", "nox", *dependencies("typing"))
    session.run("mypy")
    session.run("pyright")
    session.run("pyright", "--verifytypes", "tgmembership_async", "--ignoreexternal", silent=True)
    tutorial = Path(session.create_tmp()).absolute() / "tutorial"
    session.run("python", "tests/page_programs.py", "docs/tutorial.md", str(tutorial))
    (tutorial / "pyrightconfig.json").write_text("{}", encoding="utf-8")  # a reader has no settings, and not ours
    with session.chdir(tutorial):
        session.run("mypy", "--strict", ".")
        session.run("pyright", ".", str(HERE / "examples"))


@nox.session(python=PYTHONS[0])
@nox.parametrize("releases", ["current", "oldest"])
def frameworks(session: nox.Session, releases: str) -> None:
    """Run the framework tests with the built wheel, on the current and the oldest supported framework releases."""
    pins = OLDEST_FRAMEWORKS if releases == "oldest" else []
    session.install(".[aiogram,desk,fastapi,otel,procrastinate,stripe,testing]", *dependencies("test"), *pins)
    session.run("pytest", "tests/ext", "tests/examples", "tests/testing/test_plugin.py", *session.posargs, env=BOTH)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation offline; warnings, dead links and undocumented public names are errors.

    Pages in docs/api that are out of date are an error too: `-- --write` writes them.
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
    """Show the changelog of the fragments in changes/; `-- --yes` renders it into CHANGELOG.md."""
    session.install(*dependencies("changelog"))
    session.run("towncrier", "build", "--version", VERSION, *(session.posargs or ["--draft"]))


@nox.session
def workflows(session: nox.Session) -> None:
    """Check the workflow files, and run the release's build in a fresh clone of the last commit."""
    session.install(*dependencies("workflows"))
    files = [str(path) for path in sorted((HERE / ".github" / "workflows").glob("*.yml"))]
    session.run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *files)
    session.run("zizmor", "--offline", "--min-severity", "medium", *files)
    session.run("python", ".ci/release_dry_run.py")


@nox.session
def build(session: nox.Session) -> None:
    """Build wheel and sdist into dist/, check their contents, import the wheel on each Python, and write an SBOM."""
    session.install(*dependencies("build"))
    shutil.rmtree(DIST, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(DIST), str(HERE))
    (wheel,), (sdist,) = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    session.run("twine", "check", "--strict", str(wheel), str(sdist))
    check_contents(session, wheel, sdist)
    pythons = {version: shutil.which(f"python{version}") for version in PYTHONS}
    session.log(f"not tried, because not installed: {[version for version, found in pythons.items() if not found]}")
    tried = [environment(session, found, version, wheel) for version, found in pythons.items() if found]
    for python in tried:
        session.run(str(python), "-I", "-W", "error", "-c", SMOKE_TEST, external=True)
    oldest, bom = tried[0], DIST / f"tgmembership_async-{VERSION}.cdx.json"
    session.run(
        *("cyclonedx-py", "environment", str(oldest), "--pyproject", str(HERE / "pyproject.toml")),
        *("--mc-type", "library", "--output-reproducible", "--output-file", str(bom)),
    )
    content = json.loads(bom.read_text(encoding="utf-8"))
    content["metadata"]["component"]["version"] = VERSION  # dynamic in pyproject.toml: read from the package
    bom.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    install(session, oldest, f"{wheel}[cli]")
    session.run(str(oldest.with_name("tgmembership")), "--version", external=True)


def check_contents(session: nox.Session, wheel: Path, sdist: Path) -> None:
    """Fail if wheel or sdist lacks a required file or contains a forbidden one."""
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
    """Create an environment with only `requirements`, without pip, and return the path of its python."""
    folder = Path(session.create_tmp()).absolute() / name
    session.run(interpreter, "-m", "venv", "--clear", "--without-pip", str(folder), external=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    install(session, python, *requirements)
    return python


def install(session: nox.Session, python: Path, *requirements: Path | str) -> None:
    """Install `requirements` for an interpreter without pip."""
    session.run("python", "-m", "pip", "--python", str(python), "install", "-q", *map(str, requirements))


@nox.session
def demo(session: nox.Session) -> None:
    """Run `tgmembership demo` with the built package."""
    session.install(".[cli,testing]")
    session.run("tgmembership", "demo", *session.posargs)
