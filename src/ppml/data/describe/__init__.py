"""A first configuration for a user's own table: guesses of roles, ranges and lists that a person then corrects.

:mod:`~ppml.data.describe.files` reads the files, :mod:`~ppml.data.describe.facts` measures each column,
:mod:`~ppml.data.describe.roles` guesses its role, and :mod:`~ppml.data.describe.entry` writes the configuration.
"""
