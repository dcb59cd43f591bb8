"""Reading what comes from outside: a fault of an input has a category, and reading takes bounded time and memory."""
