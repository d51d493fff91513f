"""Exchange with Hugging Face folders."""
