"""The folders of a training on several machines, one for each site, with only the files that the site may read."""

from __future__ import annotations

import shutil
from pathlib import Path

from ppml.federation.engines.flower_processes import private_folder
from ppml.federation.engines.site import HOLDER_FOLDER, SERVER_FOLDER, SiteConfig, client_folder
from ppml.io.atomic import read_json
from ppml.stages.federation_job import INITIAL, JOB, SERVER_SEED, TEST, examples_file, load_spec, seed_file


def files_by_site(clients: int, *, key_holder: bool) -> dict[str, tuple[str, ...]]:
    """Return the files of a job that each site reads, by the name of its folder.

    Examples
    --------
    >>> files_by_site(1, key_holder=True)["key-holder"]
    ('job.json',)
    """
    files: dict[str, tuple[str, ...]] = {SERVER_FOLDER: (JOB, INITIAL, SERVER_SEED)}
    files |= {client_folder(one): (JOB, INITIAL, TEST, examples_file(one), seed_file(one)) for one in range(clients)}
    return {**files, HOLDER_FOLDER: (JOB,)} if key_holder else files


def split_job(job: Path, folder: Path, site: SiteConfig) -> None:
    """Copy the files of a job into a folder for each site, and remove the job.

    Parameters
    ----------
    job : Path
        The public file of :func:`~ppml.stages.federation_job.write_federation_job`.
    folder : Path
        Parent of the new folders, each of which only its owner can list.
    site : SiteConfig
        Gives the number of clients and whether there is a key holder.
    """
    for name, files in files_by_site(site.clients, key_holder=bool(site.key_holder)).items():
        own = private_folder(folder / name)
        for file in files:
            shutil.copy2(job.with_name(file), own / file)
        for path in own.iterdir():
            # The folder may be copied to a folder that other users can list.
            path.chmod(0o600)
    shutil.rmtree(job.parent)


def needs_key_holder(job: Path) -> bool:
    """Return whether the aggregation of a job has a key holder."""
    return load_spec(read_json(job)).arm.aggregation.has_key_holder
