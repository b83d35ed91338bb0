"""Measures how the cost of a bus grows with what it holds, and what happens when very many use it at once."""
