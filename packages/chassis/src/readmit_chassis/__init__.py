"""How a process of Readmit runs: settings, logs, health, Kafka, outbox, inbox, migrations, object store.

No domain noun appears here, and nothing of Readmit is imported. Each part is an extra of the distribution, so that a
service installs only what it uses.
"""
