"""Model families on shared layers, and their exchange with Hugging Face folders."""
