"""Resources of MCP: what is asked of them, and by whom."""
