"""The page for people: ask for one patient's risk, and watch the loop that makes the model."""
