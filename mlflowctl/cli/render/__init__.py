"""Results and events as a person or a machine reads them.

``documents`` turns a JSON document into text (table, json, yaml), ``progress`` draws an engine's events, ``terminal``
knows what the terminal can do.
"""
