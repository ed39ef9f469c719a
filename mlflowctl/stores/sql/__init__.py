"""SQL stores: SQLite, PostgreSQL and MySQL or MariaDB, at any revision of MLflow's schema."""
