"""How alike layers represent the same items, of one model and of two: `similarity.json`."""
