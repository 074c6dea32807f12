"""Settings of the whole test suite."""

from __future__ import annotations

import hypothesis

# The first example may compile the simulator; what fails once must fail again.
hypothesis.settings.register_profile("windtunnel", deadline=None, derandomize=True, print_blob=False)
hypothesis.settings.load_profile("windtunnel")
