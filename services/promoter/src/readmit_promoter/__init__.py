"""The governor of models: judges every registered candidate, keeps the ledger, names the champion."""
