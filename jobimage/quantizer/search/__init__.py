"""A search: which setting is best? Points are runs of their own; workers share only the store of trials."""
