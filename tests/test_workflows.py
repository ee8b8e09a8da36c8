"""The workflow files: actions are pinned by commit, rights are given to the jobs that need them, and sessions exist."""

import re

import pytest
from pages import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
NOXFILE = (ROOT / "noxfile.py").read_text(encoding="utf-8")

each_workflow = pytest.mark.parametrize("text", [path.read_text(encoding="utf-8") for path in WORKFLOWS])


def test_there_are_two() -> None:
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "release.yml"]


@each_workflow
def test_every_action_is_pinned_by_commit_with_its_version(text: str) -> None:
    for used in re.findall(r"uses: (.+)", text):
        assert used.startswith("./") or re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", used), used


@each_workflow
def test_rights_are_given_job_by_job(text: str) -> None:
    assert re.search(r"^permissions: \{\}$", text, re.MULTILINE)
    assert "secrets." not in text
    rights = re.findall(r"^ {6}([\w-]+: write)", text, re.MULTILINE)
    assert set(rights) <= {"id-token: write", "attestations: write"}


def test_the_matrices_name_the_interpreters_and_sessions_that_there_are() -> None:
    text = WORKFLOWS[0].read_text(encoding="utf-8")
    classifiers = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (pythons,) = re.findall(r"python: \[(.+)\]", text)
    (sessions,) = re.findall(r"session: \[(.+)\]", text)
    assert re.findall(r"3\.\d+", pythons) == classifiers
    assert all(f"\ndef {name}(" in NOXFILE for name in sessions.split(", "))
