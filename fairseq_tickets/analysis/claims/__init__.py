"""The claims of both papers, one by one, held against results: an effect, its interval, a verdict."""
