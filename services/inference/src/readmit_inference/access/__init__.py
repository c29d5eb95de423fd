"""Who may ask, and how much. One ASGI layer before everything: see `gate.py`."""
