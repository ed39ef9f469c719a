"""Migration between MLflow stores: plan, run, verify."""
