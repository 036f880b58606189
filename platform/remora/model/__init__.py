"""The multimodal model: its parts, connectors, what trains, and how parts are stored."""
