"""The names of the stages, without an import of a stage: every job asks for one."""

from __future__ import annotations

from pathlib import Path

STAGES_FOLDER = Path(__file__).parents[1] / "stages"


def stage_names() -> list[str]:
    """Return the names of all stages: the modules of :mod:`ppml.stages` with a function ``run``."""
    return [path.stem for path in sorted(STAGES_FOLDER.glob("[a-z]*.py")) if is_stage(path.stem)]


def is_stage(name: str) -> bool:
    """Return whether a stage has this name; this reads one module alone."""
    path = STAGES_FOLDER / f"{name}.py"
    return name.isidentifier() and path.is_file() and "\ndef run(job: Job)" in path.read_text(encoding="utf-8")
