"""A run as one page: what it scored, how it learned, what it looks at, and how to get it again."""
