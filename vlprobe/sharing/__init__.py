"""Results for others: model cards, experiment trackers, the Hugging Face hub."""
