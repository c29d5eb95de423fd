"""From a raw encounter to a clean encounter to a row of numbers, the same way for training and for serving."""
