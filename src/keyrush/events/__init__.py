"""What happens at the gate, and who hears of it."""
