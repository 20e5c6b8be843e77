"""Outputs of the original code under a deterministic fill, and the rules that make the inputs again."""
