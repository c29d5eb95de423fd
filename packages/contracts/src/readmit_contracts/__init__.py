"""What the services share: events and their topics, the encounter schema, the prediction API.

Nothing here does I/O, and nothing here imports another package of Readmit.
"""
