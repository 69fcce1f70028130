import re
from pathlib import Path
from typing import get_args

import pytest
import yaml
from pydantic import BaseModel

from ppml.config.arm import AffineAugmentation, Arm, TrainingSpec
from ppml.config.audit import CanaryAudit, NoAudit
from ppml.config.columns import Column, TableFields
from ppml.config.data import DataSpec, Dirichlet, Iid, Natural, Shards
from ppml.config.datasets import DATASETS, DatasetBase, DatasetSpec, FileSpec, PictureFields
from ppml.config.error_lines import KINDS
from ppml.config.experiment import Claim, ComparedRow, Experiment
from ppml.config.inference import CkksInference, NoInference
from ppml.config.load import parse_config
from ppml.config.model import Config, Folders
from ppml.config.models import MODELS
from ppml.config.splits import SplitSpec
from ppml.config.technique import (
    Bfv,
    Centralized,
    Ckks,
    ClientLevel,
    ExampleLevel,
    Federated,
    Independent,
    Masking,
    NoCorrection,
    NoPrivacy,
    Plaintext,
    ProximalTerm,
    Scaffold,
    SecretSharing,
    ServerAdam,
    ServerSgd,
)
from ppml.config.transforms import Binned, FeatureTransform, Patches, Scattering

from .small import FEDERATED, small

CONFIG = Path(__file__).parents[2] / "config"
README = (CONFIG / "README.md").read_text(encoding="utf-8")


def kinds_of(union, place):
    """Return the section of each member of a tagged union."""
    return {f"{place}, `kind: {one.model_fields['kind'].default}`": one for one in get_args(get_args(union)[0])}


SHARED = (DatasetBase, PictureFields, TableFields, FeatureTransform)
"""Bases with a section of their own: their keys are not repeated by each kind."""
SECTIONS = {
    "Top level": Config,
    "`folders`": Folders,
    "`data`": DataSpec,
    "`data.define.<name>`": DatasetBase,
    "`data.define.<name>.files`": FileSpec,
    "Pictures": PictureFields,
    "Tables": TableFields,
    "`data.define.<name>.columns.<name>`": Column,
    **kinds_of(DatasetSpec, "`data.define.<name>`"),
    **kinds_of(SplitSpec, "`data.define.<name>.split`"),
    "`kind: natural`": Natural,
    "`kind: iid`": Iid,
    "`kind: shards`": Shards,
    "`kind: dirichlet`": Dirichlet,
    "`audit`, `kind: none`": NoAudit,
    "`audit`, `kind: canary`": CanaryAudit,
    "`arms.<name>`": Arm,
    "Features of images": FeatureTransform,
    "`transforms`, `kind: scattering`": Scattering,
    "`transforms`, `kind: patches`": Patches,
    "`transforms`, `kind: binned`": Binned,
    "`topology`, `kind: centralized`": Centralized,
    "`topology`, `kind: independent`": Independent,
    "`topology`, `kind: federated`": Federated,
    "`topology.server`, `kind: sgd`": ServerSgd,
    "`topology.server`, `kind: adam`": ServerAdam,
    "`topology.correction`, `kind: none`": NoCorrection,
    "`topology.correction`, `kind: proximal`": ProximalTerm,
    "`topology.correction`, `kind: scaffold`": Scaffold,
    "`privacy`, `kind: none`": NoPrivacy,
    "`privacy`, `kind: example`": ExampleLevel,
    "`privacy`, `kind: client`": ClientLevel,
    "`aggregation`, `kind: plaintext`": Plaintext,
    "`aggregation`, `kind: ckks`": Ckks,
    "`aggregation`, `kind: bfv`": Bfv,
    "`aggregation`, `kind: secret_sharing`": SecretSharing,
    "`aggregation`, `kind: masking`": Masking,
    "`training`": TrainingSpec,
    "`training.deformation`": AffineAugmentation,
    "`inference`, `kind: none`": NoInference,
    "`inference`, `kind: ckks`": CkksInference,
    "`experiments.<name>`": Experiment,
    "`experiments.<name>.compare`": ComparedRow,
    "`experiments.<name>.claims`": Claim,
}
TYPES = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "array": "list of"}
BOUNDS = {"minimum": "≥ {}", "exclusiveMinimum": "> {}", "maximum": "≤ {}", "exclusiveMaximum": "< {}"}

each_section = pytest.mark.parametrize(
    ("heading", "model"), SECTIONS.items(), ids=[m.__name__ for m in SECTIONS.values()]
)


def models_below(annotation):
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}.union(*(models_below(field.annotation) for field in annotation.model_fields.values()))
    return set().union(*map(models_below, get_args(annotation)))


def rows(heading):
    """Return the table under ``heading``: key -> (type, default, allowed, meaning)."""
    body = re.split(r"^#+ ", README.split(f"# {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line.strip("|").split("|") for line in body.splitlines() if line.startswith("| `")]
    return {line[0].strip("` "): [cell.strip() for cell in line[1:]] for line in lines}


def own_fields(model):
    """Return the fields of a model, without those that it takes from a base with a section."""
    shared = {key for base in SHARED if base is not model and issubclass(model, base) for key in base.model_fields}
    shared -= set(model.__annotations__)
    return {key: field for key, field in model.model_fields.items() if key not in shared}


def described(model):
    """Return the JSON schema of each key; for a type or null, that of the type."""
    properties = model.model_json_schema()["properties"]
    own = own_fields(model)
    return {key: {**schema.get("anyOf", [{}])[0], **schema} for key, schema in properties.items() if key in own}


def test_every_part_of_the_configuration_has_a_section():
    assert models_below(Config) | set(SHARED) == set(SECTIONS.values())


@each_section
def test_documented_keys_are_those_of_the_models(heading, model):
    assert set(rows(heading)) == set(own_fields(model))


@each_section
def test_documented_defaults_are_those_of_the_models(heading, model):
    for key, field in own_fields(model).items():
        default = rows(heading)[key][1]
        if field.is_required() or (key == "kind" and len(get_args(field.annotation)) == 1):
            assert default == "required", key
        elif default == "below":
            assert isinstance(field.default, BaseModel) and type(field.default) in SECTIONS.values(), key
        else:
            expected = described(model)[key]["default"]
            assert yaml.safe_load(default.strip("`")) == expected, key


@each_section
def test_documented_types_and_bounds_are_those_of_the_models(heading, model):
    for key, schema in described(model).items():
        kind, _, allowed, _ = rows(heading)[key]
        if "type" in schema and schema["type"] != "object":
            assert kind.startswith(TYPES[schema["type"]]), key
        for bound, form in BOUNDS.items():
            if bound in schema:
                assert form.format(schema[bound]) in allowed, key
        constant = [schema["const"]] if "const" in schema else []
        for value in (*constant, *schema.get("enum", []), *schema.get("items", {}).get("enum", [])):
            assert f"`{value}`" in allowed, key


def test_every_data_set_model_and_kind_is_named():
    assert all(f"`{name}`" in rows("`data`")["dataset"][2] for name in DATASETS)
    assert all(f"`{name}`" in rows("`arms.<name>`")["model"][2] for name in MODELS)
    for section, kinds in KINDS.items():
        assert all(f"`{kind}`" in rows("`arms.<name>`")[section][2] for kind in kinds)


def test_every_file_of_the_folder_is_named():
    shipped = {path.name for path in CONFIG.iterdir()} - {"README.md"}
    named = set(re.findall(r"^\| `([a-z_-]+\.(?:yaml|json))` \|", README, flags=re.MULTILINE))
    assert shipped <= named
    assert named - shipped <= {"full.yaml"}


def test_examples_are_valid_yaml():
    blocks = re.findall(r"(?:^    .+\n)+", README, flags=re.MULTILINE)
    checked = [block for block in blocks if not re.match(r'    (error|snakemake|make|")', block)]
    assert len(checked) > 10
    for block in checked:
        assert isinstance(yaml.safe_load(block), dict), block


def test_examples_of_sections_are_accepted():
    accepted = 0
    for block in re.findall(r"(?:^    .+\n)+", README, flags=re.MULTILINE):
        if re.match(r"    (topology|privacy|aggregation|training|data|folders|audit): {", block):
            section = yaml.safe_load(block)
            top = section if set(section) <= set(Config.model_fields) else {}
            arm = {"topology": FEDERATED, **({} if top else section)}
            parse_config(small(**{"data": {"train": 10_000}, **top, "arms": {"a": arm}}), "README.md")
            accepted += 1
    assert accepted == 12
