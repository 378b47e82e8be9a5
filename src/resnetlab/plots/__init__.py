"""Figures: each module draws one kind from plain data with matplotlib's `Figure`; `style.save` writes it to a file."""
