"""The trainer: every committed batch becomes three evaluated, registered model candidates."""
