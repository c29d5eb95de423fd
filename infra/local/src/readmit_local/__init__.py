"""The `readmit` command: starts the whole loop on one machine with real parts, and talks to it."""
