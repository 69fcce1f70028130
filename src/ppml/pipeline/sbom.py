"""Write the bill of materials of the environment: every pin of ``requirements.lock``, in CycloneDX's JSON.

The same lock, project file and environment give the same bytes: the serial number follows from the content, and no
time is written. The installed packages declare the licences; a pin for another platform has none.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageMetadata, distributions
from pathlib import Path
from uuid import UUID, uuid5

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License, LicenseAcknowledgement
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from ppml.errors import UserError
from ppml.io.atomic import write_text
from ppml.jobs.runner import run
from ppml.project import ROOT

NAMESPACE = UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")
"""The namespace of RFC 4122 for URLs."""
DECLARED = LicenseAcknowledgement.DECLARED
LONGEST_NAME = 60
"""The number of characters of the longest name of a licence."""


@dataclass(frozen=True)
class Pin:
    """An entry of a lock file."""

    name: str
    version: str
    marker: str
    """The PEP 508 marker of the platforms; empty for all platforms."""
    hashes: tuple[str, ...]
    """The SHA-256 digests of the permitted files, in hexadecimal."""
    required_by: tuple[str, ...]
    """The names of the packages, or of the project, that require it."""


def read_lock(path: Path) -> list[Pin]:
    """Return the pins of a lock file of ``make lock``.

    Raises
    ------
    UserError
        An entry is no exact version, or has no SHA-256 digest.
    """
    return [_pin(entry, path) for entry in re.split(r"(?m)^(?=[^\s#])", path.read_text(encoding="utf-8"))[1:]]


def _pin(entry: str, path: Path) -> Pin:
    line = entry.partition("\\\n")[0].partition("\n")[0].strip()
    hashes = tuple(re.findall(r"--hash=sha256:([0-9a-f]{64})(?![0-9a-f])", entry))
    try:
        requirement = Requirement(line)
    except InvalidRequirement:
        raise UserError(f"{path}: {line!r} is no requirement; run `make lock`") from None
    exact = re.fullmatch(r"==([^,*]+)", str(requirement.specifier))
    if not exact or not hashes:
        lacks = "SHA-256 digest" if exact else "exact version"
        raise UserError(f"{path}: {line!r} has no {lacks}; run `make lock`")
    # "# via name", or "# via" and a line "#   name" for each.
    via = re.findall(r"(?m)^    #(?: via|  ) +(\S+)", entry)
    return Pin(
        canonicalize_name(requirement.name),
        exact[1],
        str(requirement.marker or ""),
        hashes,
        tuple(name for name in via if name != "-c"),
    )


def make_bom(lock: Path, project: Path) -> str:
    """Return the bill of materials of a lock file, in CycloneDX's JSON, version 1.6.

    ``project``, a ``pyproject.toml``, names the root component. The errors are those of :func:`read_lock`.
    """
    about = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    pins = read_lock(lock)
    root = Component(
        name=about["name"],
        version=about["version"],
        description=about["description"],
        type=ComponentType.APPLICATION,
        bom_ref=about["name"],
        licenses=[LicenseFactory().make_from_string(about["license"], license_acknowledgement=DECLARED)],
    )
    installed: dict[str, PackageMetadata] = {
        canonicalize_name(found.metadata["Name"]): found.metadata for found in distributions()
    }
    components = {pin: _component(pin, installed.get(pin.name)) for pin in pins}
    bom = Bom(components=components.values(), metadata=BomMetaData(component=root))
    bom.metadata.timestamp = None  # type: ignore[assignment]
    named = {about["name"]: [root]}
    for pin, component in components.items():
        named.setdefault(pin.name, []).append(component)
    for pin, component in components.items():
        bom.register_dependency(component)
        for name in pin.required_by:
            for dependent in named.get(name, ()):
                bom.register_dependency(dependent, [component])
    bom.serial_number = uuid5(NAMESPACE, _text(bom, without_serial=True))
    return _text(bom)


def _text(bom: Bom, without_serial: bool = False) -> str:
    content = json.loads(JsonV1Dot6(bom).output_as_string())
    if without_serial:
        del content["serialNumber"]
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _component(pin: Pin, metadata: PackageMetadata | None) -> Component:
    source = ExternalReference(
        type=ExternalReferenceType.DISTRIBUTION,
        url=XsUri(f"https://pypi.org/simple/{pin.name}/"),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in pin.hashes],
    )
    # A local build of the same release, such as 2.14.1+cpu, has the same licences.
    is_pinned = metadata is not None and metadata["Version"].partition("+")[0] == pin.version
    return Component(
        name=pin.name,
        version=pin.version,
        bom_ref=f"{pin.name}=={pin.version}",
        purl=PackageURL("pypi", name=pin.name, version=pin.version),
        licenses=list(_licenses(metadata)) if is_pinned and metadata is not None else [],
        external_references=[source],
        properties=[Property(name="ppml:marker", value=pin.marker)] if pin.marker else [],
    )


def _licenses(metadata: PackageMetadata) -> Iterator[License]:
    """Yield the declared licences of a package: an SPDX expression, a short name, or else its classifiers."""
    factory = LicenseFactory()
    fields = metadata.json
    declared = fields.get("license_expression")
    if declared is None:
        # Older packages have the whole text of a licence in this field, or UNKNOWN.
        text = str(fields.get("license", "")).strip()
        declared = text if 0 < len(text) <= LONGEST_NAME and "\n" not in text and text != "UNKNOWN" else None
    if declared:
        yield factory.make_from_string(str(declared), license_acknowledgement=DECLARED)
        return
    names = [line.split(" :: ") for line in metadata.get_all("Classifier") or () if line.startswith("License :: ")]
    for name in sorted({parts[-1] for parts in names if len(parts) > 2}):
        yield factory.make_with_name(name, acknowledgement=DECLARED)


def check_bom(text: str) -> None:
    """Check that a text is a bill of materials by CycloneDX's schema.

    Raises
    ------
    UserError
        The message has the first difference from the schema.
    """
    fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if fault is not None:
        raise UserError(f"the bill of materials does not follow CycloneDX 1.6: {str(fault).splitlines()[0]}")


def main(argv: Sequence[str] | None = None) -> None:
    """Write the bill of materials, and print the numbers of packages and of declared licences."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("path", type=Path, help="the file to write")
    path = parser.parse_args(argv).path
    text = make_bom(ROOT / "requirements.lock", ROOT / "pyproject.toml")
    check_bom(text)
    write_text(path, text)
    components = json.loads(text)["components"]
    licensed = sum("licenses" in component for component in components)
    print(f"{os.fspath(path)}: {len(components)} packages, {licensed} with a declared licence")


if __name__ == "__main__":
    run(main)
