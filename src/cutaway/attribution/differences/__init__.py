"""The machinery of DeepLIFT: changes between a baseline and the input, passed back operation by operation."""
