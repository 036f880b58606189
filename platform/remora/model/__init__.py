"""The multimodal model: parts, connectors, what trains, and how parts are kept on disk."""
