"""The formats of data sets: a module for each reads files as arrays, before any normalisation."""
