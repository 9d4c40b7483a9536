"""Measurements of this library: operations, memory and time. Not part of the installed package."""
