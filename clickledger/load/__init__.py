"""Sending clicks and keeping the books about them: sources, generator, open-loop sender, verification."""
