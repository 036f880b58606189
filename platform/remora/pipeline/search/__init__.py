"""A search without Ray: what it may choose, which stage run comes next, who goes on, and what came of it."""
