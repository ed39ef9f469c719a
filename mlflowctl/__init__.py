"""mlflowctl: a toolkit for the people who run MLflow."""

__version__ = "0.1.0"
