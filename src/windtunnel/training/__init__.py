"""Step time, memory and layouts of training."""
