"""What HTTP says, in and out."""
