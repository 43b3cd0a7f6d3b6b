"""Members of the family as objectives: what they are, in words."""
