"""Who hears of what happens at the gate."""
