"""The model families: one file declares each, with its names in Hugging Face folders."""
