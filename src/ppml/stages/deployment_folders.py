"""A federated training on several machines as folders: one for each site, with what that site may see and no more."""

from __future__ import annotations

import shutil
from pathlib import Path

from ppml.config.technique import Bfv, Ckks
from ppml.federation.engines.flower_processes import private_folder
from ppml.federation.engines.site import HOLDER_FOLDER, SERVER_FOLDER, Site, folder_of
from ppml.io.atomic import read_json
from ppml.stages.federation_job import INITIAL, JOB, SERVER_SEED, TEST, given, records_of, seed_of


def files_of_sites(clients: int, *, key_holder: bool) -> dict[str, tuple[str, ...]]:
    """Return which files of a job each site reads, by the name of its folder.

    Examples
    --------
    >>> files_of_sites(1, key_holder=True)["key-holder"]
    ('job.json',)
    """
    files: dict[str, tuple[str, ...]] = {SERVER_FOLDER: (JOB, INITIAL, SERVER_SEED)}
    files |= {folder_of(one): (JOB, INITIAL, TEST, records_of(one), seed_of(one)) for one in range(clients)}
    return {**files, HOLDER_FOLDER: (JOB,)} if key_holder else files


def split_job(job: Path, folder: Path, site: Site) -> None:
    """Split the files of :func:`~ppml.stages.federation_job.write_job` into a folder for each site; remove the rest.

    Parameters
    ----------
    job : Path
        The file of what is public.
    folder : Path
        Gets the folders, each for its owner alone.
    site : Site
        Says how many clients there are, and whether there is a holder of a key.
    """
    for name, files in files_of_sites(site.clients, key_holder=bool(site.key_holder)).items():
        place = private_folder(folder / name)
        for file in files:
            shutil.copy2(job.with_name(file), place / file)
        for path in place.iterdir():
            # The folder may be carried to a place that others can list.
            path.chmod(0o600)
    shutil.rmtree(job.parent)


def needs_key_holder(job: Path) -> bool:
    """Return whether a training takes a holder of a secret key."""
    return isinstance(given(read_json(job)).arm.aggregation, Ckks | Bfv)
