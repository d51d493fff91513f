"""Kinds of input, each declared in one place: columns, batch fields, sizes, options and checks."""
