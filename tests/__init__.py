"""The tests of keyrush; they mirror src."""
