"""LoRA adapters in vLLM's scheduler: which requests name which, and how many different ones a step may hold."""
