"""What the gate decides, whichever door a request comes by."""
