"""Environment variables of the processes of a site, which each site sets for itself."""

APP = "PPML_APP"
"""Module of the apps; a client runs its ``client_app``."""

PUBLIC_SOCKET = "PPML_PUBLIC_SOCKET"
"""Descriptor of the listening socket for other machines, if there are any."""

JOB = "PPML_JOB"
"""Public file of the training; the site's own files are in the same folder."""

RESULT = "PPML_RESULT"
"""File for the result: at the server the history, at a client the model."""

NODES = "PPML_NODES"
"""File with the client of each Flower node."""

ANSWER_SECONDS = "PPML_ANSWER_SECONDS"
"""Seconds that the server waits for the reply of a client."""

FAULT = ".fault"
"""Suffix of the result's name for a file with the reason of a failure."""
