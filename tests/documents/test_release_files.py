"""The files of the release: they parse, agree on the version, and name commands that exist."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import tomllib

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from .markdown import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")


def load(name):
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def tracked():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()


def test_citation_is_complete():
    citation = load("CITATION.cff")
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= set(citation)
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert citation["authors"][0]["name"] in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert all({"type", "title", "authors"} <= set(reference) for reference in citation["references"])


def test_changes_begin_with_version():
    first = re.search(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert first is not None and first[1].split()[0] == PROJECT["version"]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_form_is_valid(path):
    form = load(path)
    assert {"name", "description", "body"} <= set(form)
    fields = [part for part in form["body"] if part["type"] != "markdown"]
    assert {part["type"] for part in fields} <= {"input", "textarea", "dropdown", "checkboxes"}
    assert len({part["id"] for part in fields}) == len(fields) > 0
    assert all(part["attributes"]["label"] for part in fields)


def test_tests_on_github_call_script():
    # YAML 1.1 reads the key `on` as true.
    workflow = load(".github/workflows/ci.yml")
    assert {"push", "pull_request"} <= set(workflow[True])
    (job,) = workflow["jobs"].values()
    runs = [step["run"] for step in job["steps"] if "run" in step]
    assert runs[-1] == ".ci/run" and os.access(ROOT / ".ci" / "run", os.X_OK)
    allowed = SpecifierSet(PROJECT["requires-python"])
    assert all(version in allowed for version in job["strategy"]["matrix"]["python"])


def test_hooks_call_programs_of_environment():
    (repository,) = load(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    files = tracked()
    for hook in repository["hooks"]:
        program, *arguments = hook["entry"].split()
        assert (program, hook["language"]) == (".venv/bin/python", "system")
        if arguments[0] == "-m":
            assert importlib.util.find_spec(arguments[1]), hook["id"]
        else:
            assert (ROOT / arguments[0]).is_file(), hook["id"]
        assert any(re.search(hook.get("files", ""), name) for name in files), hook["id"]


def test_catalog_entry_is_true():
    usage = load(".snakemake-workflow-catalog.yml")["usage"]
    rules = [path.read_text(encoding="utf-8") for path in (ROOT / "workflow").rglob("*.smk")]
    has_environments = any(re.search(r"^\s*conda:", text, flags=re.MULTILINE) for text in rules)
    deployment = usage["software-stack-deployment"]
    assert all(isinstance(value, bool) for value in (*deployment.values(), usage["report"]))
    assert has_environments or not deployment["conda"]
