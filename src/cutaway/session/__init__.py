"""From words to results: methods, models and data by name."""
