"""The vLLM scheduler when a step is composed before the last one's tokens are known, or carries drafts."""
