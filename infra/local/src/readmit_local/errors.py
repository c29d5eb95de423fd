"""What goes wrong here, said in one line."""

from __future__ import annotations


class LocalError(Exception):
    """Names the thing and the next step in one line; the command prints it and exits with code 1."""
