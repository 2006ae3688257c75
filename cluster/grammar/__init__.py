"""What a sequence may write: constraints as values, and the guides that hold sequences to them."""
