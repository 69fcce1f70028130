"""Stage transform: calculate other inputs of the same examples, once for all arms and seeds that use them."""

from __future__ import annotations

from ppml.config.transforms import Scattering
from ppml.data.transforms.extractor import ScatteringFeatures
from ppml.io.atomic import read_json, write_json
from ppml.jobs.job import Job
from ppml.randomness import Randomness
from ppml.stages.about import read_contract
from ppml.stages.example_files import read_raw_examples, write_examples


def run(job: Job) -> None:
    """Write the transformed training examples and evaluation file, and about.json with their contract.

    The specification holds transform and root_seed.
    """
    settings = Scattering.model_validate(job.spec["transform"])
    contract = read_contract(job.inputs["about"])
    train, test = (read_raw_examples(job.inputs[name], contract) for name in ("train", "test"))
    features = ScatteringFeatures(settings, Randomness(job.spec["root_seed"]).child("features"))
    output = contract.features(features.size)
    write_examples(job.outputs["train"], features.copies(train.inputs), train.labels, output)
    write_examples(job.outputs["test"], features.viewed(test.inputs), test.labels, output)
    write_json(job.outputs["about"], {**read_json(job.inputs["about"]), "contract": output.to_json()})
