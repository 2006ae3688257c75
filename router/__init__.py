"""From the clients' APIs to sequences, and back."""
