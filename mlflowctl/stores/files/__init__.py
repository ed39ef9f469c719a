"""The file store: ``mlruns`` folders of every MLflow since 0.8, read directly, as the rows that MLflow's SQL store holds.

MLflow's own FileStore class is never used: recent releases refuse it, it is slow, and one malformed file makes it fail
for the whole store. The rows are those of one fixed revision; the migration lifts them from there.
"""

from __future__ import annotations

from mlflowctl.stores.files.quick import QuickFacts
from mlflowctl.stores.files.reader import READER_REVISION, FilesReader, open_files

__all__ = ["READER_REVISION", "FilesReader", "QuickFacts", "open_files"]
