"""The command line: the only room that knows typer and rich.

``main`` is the way in, ``run`` the way of every command from flags to exit code, ``params`` turns options into flags,
and each command is one thin module.
"""
