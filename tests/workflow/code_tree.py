"""A small package, whose code digests the tests change."""

from __future__ import annotations

from pathlib import Path

from ppml.pipeline.code_digest import CodeDigests

CHOICES = ("Alone", "Together", "Apart", "Plain", "Noisy", "small", "big", "mnist", "kmnist")
FILES = {
    "__init__.py": '"""A small package."""\n',
    "config/__init__.py": "",
    "config/spec.py": "import pydantic\nimport ppml.parts.checks\n\nclass Alone: ...\nclass Together: ...\n",
    "configure.py": "READS = 'no settings'\n",
    "parts/__init__.py": "",
    "parts/alone.py": "def alone(): return 1\n",
    "parts/checks.py": "LIMIT = 1\n",
    "parts/deep/__init__.py": "from ppml.parts.deep.inside import depth\n",
    "parts/deep/inside.py": "import numpy.linalg\n\ndef depth(): return 3\n",
    "parts/hints.py": "import pandas\n\nclass Hint: ...\n",
    "parts/kmnist.py": "class Source: ...\n",
    "parts/lazy.py": "import yaml\n\nLAZY = True\n",
    "parts/loop.py": "from ppml.parts.steps import step\n\ndef walk(): return step(2)\n",
    "parts/mnist.py": "class Source: ...\n",
    "parts/noise.py": "import opacus\n\ndef noise(): return 4\n",
    "parts/steps.py": "import os\n\nfrom torch import nn\n\ndef step(number: int) -> int: return number\n",
    "parts/together.py": "import flwr.app as app\n\ndef together(): return app\n",
    "parts/unused.py": "import pandas\n",
    "parts/build.py": '''"""From the configuration to parts."""

from __future__ import annotations

from ppml.config.spec import Alone, Plain, Together

TABLE = {"mnist": "ppml.parts.mnist:Source", "kmnist": "ppml.parts.kmnist:Source"}
SIZES = {"small": 1, "big": 2, "both": 3}


def build(spec: Alone | Together) -> object:
    """Return what the configuration asks for."""
    match spec:
        case Alone():
            from ppml.parts.alone import alone

            return alone()
        case Together() as together:
            from ppml.parts.together import together

            return together()
        case Plain() | Noisy(1):
            from ppml.parts.noise import noise

            return noise()
''',
    "stages/__init__.py": "",
    "jobs/__init__.py": "",
    "jobs/threads.py": "COUNT = 1\n",
    "stages/other.py": "import ppml.parts.unused\n",
    "stages/train.py": '''"""Train."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from ppml import configure
from ppml.config import spec
from ppml.config.spec import Alone, Together
from ppml.parts import loop
from ppml.parts.build import build

if TYPE_CHECKING:
    from ppml.parts.hints import Hint

RATE = 0.5
"""Why it is a half."""
NAMES = ["one", "two"]


@dataclass(frozen=True)
class Settings:
    """Settings."""

    epochs: int = 1
    label: str = ""


@cache
def train(settings: Settings, rate: float = RATE, *, loud: bool = False) -> float:
    """Return the loss."""
    import ppml.parts.deep
    from ppml.parts.lazy import LAZY

    total = rate + len(NAMES)
    return total * 2 if LAZY else 0.0


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    build(loop.walk())
''',
}
LOCK = """# made by hand
flwr==1.41.0 \\
    --hash=sha256:01 \\
    --hash=sha256:02
    # via ppml
numpy==2.4.6 ; python_full_version < '3.12' \\
    --hash=sha256:03
    # via torch==0.0.1
numpy==2.5.5 ; python_full_version >= '3.12' \\
    --hash=sha256:04
opacus==1.6.0
pandas==3.1.1
pydantic==2.14.3
PyYAML==6.0.3
torch[all]==2.14.1 \\
    --hash=sha256:05
"""
NUMPY = "2.4.6 ; python_full_version < '3.12' | 2.5.5 ; python_full_version >= '3.12'"


TRAIN, STEPS = "stages/train.py", "parts/steps.py"


class Tree:
    """The small package in a folder, and its lock file."""

    def __init__(self, folder: Path) -> None:
        self.package = folder / "src" / "ppml"
        self.lock = folder / "requirements.lock"
        for name, text in FILES.items():
            self.write(name, text)
        self.lock.write_text(LOCK)

    def write(self, name: str, text: str) -> None:
        path = self.package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def replace(self, name: str, old: str, new: str) -> None:
        path = self.lock if name == "requirements.lock" else self.package / name
        text = path.read_text()
        assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times in {name}"
        assert old != new
        path.write_text(text.replace(old, new))

    def digests(self, choices: tuple[str, ...] = CHOICES, cache: Path | None = None) -> CodeDigests:
        return CodeDigests(self.package, self.lock, choices, cache)

    def text(self, *chosen: str, stage: str = "train") -> str:
        return self.digests().of(stage, chosen).text

    def modules(self, *chosen: str, stage: str = "train") -> set[str]:
        return set(self.digests().of(stage, chosen).modules)

    def pins(self, *chosen: str, stage: str = "train") -> dict[str, str]:
        return self.digests().of(stage, chosen).pins
