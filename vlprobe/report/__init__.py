"""Results -> summaries -> tables. Reads results; nothing of the pipeline reads it."""
