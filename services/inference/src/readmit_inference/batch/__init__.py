"""`POST /predict/batch`: many encounters in one request, read and answered as a stream."""
