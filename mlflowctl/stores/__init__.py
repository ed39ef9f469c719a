"""Readers and writers of MLflow stores. Each kind of store is read as MLflow's own tables in Arrow record batches."""
