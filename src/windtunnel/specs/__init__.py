"""What a user writes: model, hardware, plan, engine, workload, targets, deployment."""
