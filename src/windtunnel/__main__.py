"""`python -m windtunnel`: the command for a Python that has no script of it."""

from __future__ import annotations

from windtunnel.cli.main import main

main()
