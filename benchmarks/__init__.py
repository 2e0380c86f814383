"""keyrush beside its peers, in one run."""
