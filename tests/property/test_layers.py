"""Whatever layers speak, the highest one wins, and the origin names it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from mlflowctl.config import layers
from mlflowctl.config.layers import Layer
from mlflowctl.config.options import FROM, JOBS

_SPEAKING = st.dictionaries(
    st.sampled_from([layer for layer in Layer if layer is not Layer.DEFAULT]), st.integers(1, 10**6), max_size=6
)


@settings(deadline=None)
@given(_SPEAKING)
def test_the_highest_layer_wins(said: dict[Layer, int]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environ = {"XDG_CONFIG_HOME": name}
        flags = {}
        for layer, number in said.items():
            text = f"migrate:\n  jobs: {number}\n  from: store-{number}\n"
            if layer is Layer.FLAG:
                flags = {JOBS.key: str(number), FROM.key: f"store-{number}"}
            elif layer is Layer.ENVIRONMENT:
                environ |= {JOBS.variable: str(number), FROM.variable: f"store-{number}"}
            elif layer is Layer.DOTENV:
                (folder / ".env").write_text(f"{JOBS.variable}={number}\n{FROM.variable}=store-{number}\n")
            elif layer is Layer.PROJECT:
                (folder / "mlflowctl.yaml").write_text(text)
            elif layer is Layer.USER:
                (folder / "mlflowctl").mkdir()
                (folder / "mlflowctl/config.yaml").write_text(text)
            else:
                environ["MLFLOW_TRACKING_URI"] = f"store-{number}"
        result = layers.resolve(flags, environ=environ, folder=folder)
        assert not result.problems
        winner = min(said, default=Layer.DEFAULT)
        assert result.layer(FROM) is winner
        assert result[FROM] == (f"store-{said[winner]}" if said else None)
        without_mlflow = min((layer for layer in said if layer is not Layer.MLFLOW), default=Layer.DEFAULT)
        assert result.layer(JOBS) is without_mlflow
        if without_mlflow is not Layer.DEFAULT:
            assert result[JOBS] == said[without_mlflow]
        origins = {
            Layer.FLAG: "flag --jobs",
            Layer.ENVIRONMENT: "env MLFLOWCTL_MIGRATE_JOBS",
            Layer.DOTENV: ".env:1",
            Layer.PROJECT: "mlflowctl.yaml:2:9",
            Layer.USER: f"{folder}/mlflowctl/config.yaml:2:9",
            Layer.DEFAULT: "default",
        }
        assert result.origin(JOBS) == origins[without_mlflow]
