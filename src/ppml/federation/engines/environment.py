"""Names of the variables that the processes of a site are started with: each site sets its own, and no other does."""

APP = "PPML_APP"
"""The module that has the apps; a client runs its ``client_app``."""

PUBLIC_SOCKET = "PPML_PUBLIC_SOCKET"
"""The number of the open socket on which other machines reach the server, if any do."""

JOB = "PPML_JOB"
"""The file of what is public of the training; what the site may read lies beside it."""

RESULT = "PPML_RESULT"
"""The file for what the training comes to: at the server its history, at a client the model."""

NODES = "PPML_NODES"
"""The file of which client each of Flower's nodes is."""

ANSWER_SECONDS = "PPML_ANSWER_SECONDS"
"""How many seconds a client may take to answer."""

FAULT = ".fault"
"""What the name of a file ends in beside the result: why there is none."""
