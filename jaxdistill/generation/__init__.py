"""Tokens from a language model: decoding, rollouts within a step, texts that a teacher writes."""
