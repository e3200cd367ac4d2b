"""Jobs over whole data sets."""
