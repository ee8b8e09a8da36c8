"""Run the job `build` of the release workflow in a fresh clone, as far as that is possible without GitHub.

    python .ci/release_dry_run.py

Each `run:` step is executed with the environment that a pushed tag gives it. Of the actions, checkout and setup-python
are the clone and an environment of its own, and each upload must find its files. Every artifact that a later job
downloads must be one that was uploaded. Attesting and publishing need GitHub, and are only listed.
"""

import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Mapping
from pathlib import Path
from runpy import run_path
from typing import Any

import yaml

HERE = Path(__file__).parent.parent
UPLOAD, DOWNLOAD = "actions/upload-artifact", "actions/download-artifact"


def steps_of(job: Mapping[str, Any], action: str) -> Iterator[Mapping[str, Any]]:
    """Yield the inputs of the steps of a job that use an action."""
    for step in job.get("steps", ()):
        if step.get("uses", "").startswith(f"{action}@"):
            yield step["with"]


def build(job: Mapping[str, Any], folder: Path, tag: str) -> set[str]:
    """Run the steps of a job in a clone, and return the names of the artifacts that it uploads."""
    clone, python = folder / "clone", folder / "python"
    subprocess.run(["git", "clone", "-q", HERE, clone], check=True)
    venv.create(python, with_pip=True)
    path = os.pathsep.join([str(python / "bin"), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "CI": "true", "GITHUB_REF_NAME": tag}
    for step in job["steps"]:
        if "run" in step:
            print(f"==> {step['run']}", flush=True)
            subprocess.run(["bash", "-e", "-o", "pipefail", "-c", step["run"]], cwd=clone, env=environment, check=True)
    uploaded = set[str]()
    for artifact in steps_of(job, UPLOAD):
        for pattern in artifact["path"].split():
            found = [file.name for file in clone.glob(pattern)]
            if not found:
                sys.exit(f"the artifact {artifact['name']} has no file {pattern}")
            print(f"==> {artifact['name']}: {', '.join(found)}")
        uploaded.add(artifact["name"])
    return uploaded


def main() -> None:
    """Run the job, and say what was not run."""
    jobs = yaml.safe_load((HERE / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8"))["jobs"]
    version = run_path(str(HERE / "tgmembership_async" / "version.py"))["__version__"]
    with tempfile.TemporaryDirectory() as folder:
        uploaded = build(jobs["build"], Path(folder), f"v{version}")
    for name, job in jobs.items():
        missing = {wanted["name"] for wanted in steps_of(job, DOWNLOAD) if "name" in wanted} - uploaded
        if missing:
            sys.exit(f"{name} downloads what nobody uploads: {', '.join(missing)}")
    print(f"==> not run here: {', '.join(name for name in jobs if name != 'build')}")


if __name__ == "__main__":
    main()
