"""Answers `POST /predict` with the risk of readmission, from whichever model is champion at that moment."""
