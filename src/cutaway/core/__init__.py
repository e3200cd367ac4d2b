"""The nouns that every method uses; the only code that registers hooks or modes on a model."""
