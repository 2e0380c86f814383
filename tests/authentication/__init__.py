"""Keys, their cache, and their proof."""
