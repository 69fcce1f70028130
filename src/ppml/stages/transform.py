"""Stage transform: calculate other inputs of the same examples, once for all arms and seeds that use them."""

from __future__ import annotations

from pydantic import TypeAdapter

from ppml.config.transforms import Binned, Patches, Scattering, Transform
from ppml.contract import DataContract
from ppml.data.transforms.rules import build_transform
from ppml.io.atomic import read_json, write_json
from ppml.jobs.job import Job
from ppml.randomness import Randomness
from ppml.stages.about import read_contract
from ppml.stages.example_files import read_raw_examples, write_examples


def run(job: Job) -> None:
    """Write the transformed training examples and evaluation file, and about.json with their contract.

    The specification holds transform, root_seed and contract, that of the output.
    """
    settings: Scattering | Patches | Binned = TypeAdapter(Transform).validate_python(job.spec["transform"])
    about, contract = read_json(job.inputs["about"]), read_contract(job.inputs["about"])
    rule = build_transform(settings, contract, Randomness(job.spec["root_seed"]).child("features"))
    output = DataContract.model_validate(job.spec["contract"])
    for name, calculate in (("train", rule.copies), ("test", rule.viewed)):
        examples = read_raw_examples(job.inputs[name], contract)
        write_examples(job.outputs[name], calculate(examples.inputs), examples.labels, output)
    # The contract before the first transform: that of raw examples, for readers of a trained model.
    raw = about.get("raw", about["contract"])
    write_json(job.outputs["about"], {**about, "contract": output.to_json(), "raw": raw})
