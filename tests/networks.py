"""Networks that several test files use. Untrained unless said; seeded by the caller."""
