"""Readers: a file for each kind of file or folder that data is read from.  Which is used is decided in data/sources.py."""
