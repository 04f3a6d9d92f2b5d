"""Wire contracts and clients that every service uses; imports no service."""
