"""vLLM's own scheduler, whose limits may be changed while the server is idle: one start serves many settings.

Loaded by the server (`--scheduler-cls retuned.Retuned`), never by the tests.
"""

from __future__ import annotations

import json
import os
from typing import Any

from vllm.v1.core.sched.scheduler import Scheduler

SETTINGS = os.environ.get("WINDTUNNEL_SCHEDULER_SETTINGS", "")


class Retuned(Scheduler):  # type: ignore[misc]
    """Reads its limits from a file whenever nothing is running."""

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """Compose a step as vLLM does."""
        if not self.running:
            with open(SETTINGS, encoding="utf-8") as file:
                settings = json.load(file)
            self.max_num_running_reqs = self.max_num_active_reqs = settings["max_num_seqs"]
            self.max_num_scheduled_tokens = settings["max_num_batched_tokens"]
            self.scheduler_config.enable_chunked_prefill = settings["enable_chunked_prefill"]
            self.scheduler_config.long_prefill_token_threshold = settings["long_prefill_token_threshold"]
        return super().schedule(*args, **kwargs)
