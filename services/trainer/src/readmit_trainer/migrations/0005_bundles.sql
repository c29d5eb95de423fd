-- What a finished job has made, for the fit of a later batch to go on from.
ALTER TABLE training.jobs ADD COLUMN bundle jsonb;
