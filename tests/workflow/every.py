"""A small project with every rule."""

from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import mirrored
from tests.workflow.project import DATASET, Project

CONFIG = "config/every.yaml"
EVERY = f"""\
# Every rule, with every option that its command can have.
seeds: [0]
folders: FOLDERS
data: {{dataset: {DATASET}, train: 120, test: 40, download: false}}
audit: {{kind: canary, steps: 32}}
partitions: {{iid2: {{kind: iid, clients: 2}}}}
arms:
  encrypted:
    model: logistic
    training: {{epochs: 1, batch_size: 40, learning_rate: 0.05}}
    inference: {{kind: ckks, images: 10, single_images: 1}}
  private:
    dataset: digits
    transforms: [{{kind: scattering, components: 30, strokes: 40, copies: 2}}]
    model: linear
    topology: {{kind: federated, partition: iid2, rounds: 1}}
    privacy: {{kind: example, epsilon: 8.0, delta: 1.0e-3, max_grad_norm: 0.01}}
    training: {{epochs: 1, batch_size: 30, learning_rate: 1.0}}
  open: {{extends: private, privacy: {{kind: none}}}}
experiments:
  every:
    title: It's "every" {{rule}} & `more`
    arms: [encrypted, private]
    tables: [audit, inference, threats]
    figures: [epsilon]
"""
PLAIN = {key: f"build/every/{key}" for key in ("data", "artifacts", "reports", "logs")}


def run_in(project: Project, folders: dict[str, str]) -> Project:
    """Run a project with these output folders, and return it."""
    # JSON is YAML, and its strings can hold every character.
    (project.folder / CONFIG).write_text(EVERY.replace("FOLDERS", json.dumps(folders)))
    project.complete()
    return project


def source() -> Path:
    """Return a local mirror of the data; without one, the digits need none."""
    return next((file.parents[1] for file in mirrored(DATASET).values()), Path("/no/mirror"))
