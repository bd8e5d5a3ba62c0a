"""Faces of the one pipeline, one a file."""
