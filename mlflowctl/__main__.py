"""``python -m mlflowctl``."""

from mlflowctl.cli.main import main

if __name__ == "__main__":
    main()
