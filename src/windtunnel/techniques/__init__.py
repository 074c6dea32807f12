"""Published techniques: one file each, cited; pure functions over deployments and operators."""
